"""Secrets that come as files: they take precedence, and a file of an unknown name is an error."""

from pathlib import Path

import pytest

from retrain_worker import settings
from retrain_worker.domain.host_names import HostNames
from retrain_worker.errors import SettingsError
from retrain_worker.settings.credentials import CREDENTIAL_NAMES
from tests.reference_pages import ROOT


def test_a_credential_is_a_setting_with_or_without_the_prefix_of_the_unit(tmp_path: Path) -> None:
    (tmp_path / "settings_REDIS_PASSWORD").write_text("hunter2\n")
    (tmp_path / "DATABASE_URL").write_text("postgresql://u:p@h/d\n")
    found = settings.credentials_in({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    loaded = settings.load({"DATABASE_URL": "postgresql://elsewhere/d", **found})

    assert str(loaded.redis_url) == "redis://:hunter2@localhost:6379/0"
    assert str(loaded.database_url) == "postgresql+psycopg://u:p@h/d"
    assert "hunter2" not in repr(loaded)


def test_a_misspelled_credential_is_reported_without_its_value(tmp_path: Path) -> None:
    (tmp_path / "settings_REDIS_PASWORD").write_text("hunter2")
    with pytest.raises(SettingsError) as refused:
        settings.credentials_in({"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert "REDIS_PASWORD" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_reference_names_every_credential() -> None:
    (line,) = [
        line
        for line in (ROOT / "docs/reference/settings.md").read_text().splitlines()
        if "may be files of that name" in line
    ]
    assert all(name in line for name in CREDENTIAL_NAMES)


def test_with_a_home_the_credentials_of_the_host_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostNames, "credentials", tmp_path)
    (tmp_path / "REDIS_PASSWORD").write_text("x")

    assert settings.credentials_in({}) == {"REDIS_PASSWORD": "x"}
    assert settings.credentials_in({}, home=tmp_path) == {}


def test_the_private_key_of_tls_stays_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "settings_REDIS_KEY").write_text("-----BEGIN PRIVATE KEY-----")
    found = settings.credentials_in({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    loaded = settings.load({"REDIS_URL": "rediss://h/0?db=1", "REDIS_CERT": "/c.pem", **found})

    assert str(loaded.redis_url) == f"rediss://h/0?db=1&ssl_certfile=/c.pem&ssl_keyfile={tmp_path}/settings_REDIS_KEY"
