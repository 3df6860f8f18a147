"""The main loop goes on whatever a reload or the status meets."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from retrain_worker.adapters.reload_result import ReloadResult
from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon import service
from retrain_worker.daemon.standby import standby
from retrain_worker.daemon.status import status_line
from retrain_worker.errors import SettingsError
from retrain_worker.settings import Settings, load


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            SettingsError(('RETRAIN_INTERVAL_H: "banana" is not a number',)),
            'RETRAIN_INTERVAL_H: "banana" is not a number',
        ),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
    ],
)
def test_a_reload_that_fails_is_rejected_and_changes_nothing(
    components: Any, tmp_path: Path, error: Exception, problem: str
) -> None:
    def read_settings() -> Settings:
        raise error

    before = components.configuration.settings
    with capture_logs() as logged:
        service._reload(components, Notifier(), read_settings, tmp_path / "result")

    assert components.configuration.settings is before
    assert [each["event"] for each in logged] == ["reload_rejected"]
    assert logged[0]["message"].startswith("reload rejected, running configuration unchanged: ")
    assert problem in logged[0]["message"]
    result = msgspec.json.decode((tmp_path / "result").read_bytes(), type=ReloadResult)
    assert problem in result.problems[0]


def test_a_reload_lists_what_has_changed_without_secrets(components: Any, tmp_path: Path) -> None:
    def read_settings() -> Settings:
        values = {"MAX_EPOCHS": "7", "REDIS_URL": "redis://:hunter2@localhost:6379/0"}
        return load(values, home=components.configuration.settings.home)

    with capture_logs() as logged:
        service._reload(components, Notifier(), read_settings, tmp_path / "result")
        service._reload(components, Notifier(), read_settings, tmp_path / "again")

    first, second = (entry["message"] for entry in logged if entry["event"] == "reloaded")
    result = msgspec.json.decode((tmp_path / "result").read_bytes(), type=ReloadResult)
    assert re.search(r"MAX_EPOCHS: \d+ → 7", first)
    assert "no setting has changed" in second
    assert {change.name for change in result.changes} >= {"MAX_EPOCHS", "REDIS_URL"}
    assert result.in_force["MAX_EPOCHS"] == "7"
    assert "hunter2" not in first + (tmp_path / "result").read_text()


@pytest.mark.parametrize("is_valid", [True, False])
def test_a_standby_answers_a_reload_and_the_leader_reads_valid_settings_again(
    components: Any, tmp_path: Path, is_valid: bool
) -> None:
    settings = components.configuration.settings
    signals: Any = SimpleNamespace(reloading=True, stopping=False, wait=lambda _: None)
    with standby(
        settings,
        signals=signals,
        notifier=Notifier(),
        read_settings=lambda: load({"MAX_EPOCHS": "7" if is_valid else "many"}, home=settings.home),
        result_path=tmp_path / "result",
    ) as (wait, end):
        wait("another process leads")
        assert not signals.reloading
        end()

    result = msgspec.json.decode((tmp_path / "result").read_bytes(), type=ReloadResult)
    assert signals.reloading == is_valid
    assert bool(result.problems) != is_valid
    assert (result.in_force["MAX_EPOCHS"] == "7") == is_valid


def test_a_status_that_cannot_be_composed_is_an_error_in_words(
    components: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect() -> None:
        raise KeyError("last_known")

    monkeypatch.setattr(components.store, "last_deployment", defect)

    assert status_line(components) == "KeyError: 'last_known'"
