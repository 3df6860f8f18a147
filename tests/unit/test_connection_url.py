"""A URL has one reading, and no text about it holds a password."""

from urllib.parse import quote, unquote, urlsplit

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker import settings
from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.domain.connection_url import has_password, requoted, shown, without_password
from retrain_worker.domain.database_url import canonical
from retrain_worker.errors import SettingsError
from retrain_worker.redis_client import connect
from tests.known import known

#: of a password as it is written; one with ? must be percent-encoded
RAW = st.text(st.characters(codec="utf-8", exclude_characters="?%", exclude_categories=["C", "Z"]), min_size=1)


@given(RAW)
def test_every_library_reads_the_same_password_as_written(password: str) -> None:
    database = canonical(f"postgres://u:{password}@h:5432/d?connect_timeout=2")
    url = sa.make_url(database)
    assert (url.username, url.password, url.host, url.port, url.database) == ("u", password, "h", 5432, "d")
    assert (unquote(known(urlsplit(database).password)), urlsplit(database).hostname) == (password, "h")

    options = connect(f"redis://:{password}@h:6380/2").connection_pool.connection_kwargs
    assert (options["password"], options["host"], options["port"], options["db"]) == (password, "h", 6380, 2)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_encoded_password_stays_the_same(password: str) -> None:
    url = f"redis://u:{quote(password, safe='')}@h:6379/0"
    assert requoted(url) == url
    assert has_password(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql+psycopg://u:hunter2@h:5432/d", "postgresql://u@h:5432/d"),
        ("postgresql://u:hun/ter2@h/d", "postgresql://u@h/d"),
        ("postgresql://u:hun@hunter2@h/d", "postgresql://u@h/d"),
        ("postgresql://u:hun#hunter2@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?password=hunter2&user=u", "postgresql://h/d"),
        ("postgresql://h/d?pass%77ord=hunter2&host=/run/pg", "postgresql://h/d?host=/run/pg"),
        ("redis://hunter2@h/0", "redis://h/0"),
        ("redis://:hunter2@h:6379/0", "redis://h:6379/0"),
        ("redis://h/0?password=hunter2", "redis://h/0"),
        ("unix://u:hunter2@/run/my%20redis.sock?db=2", "unix://u@/run/my redis.sock"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://h/0%1b[2J", "redis://h/0\\x1b[2J"),
        ("postgresql://u:hun?hunter2@h/d", "an unreadable URL"),
        ("postgresql://u:54?hunter2=@h/d", "an unreadable URL"),
        ("postgresql://h/d?password=hun@hunter2", "an unreadable URL"),
        ("postgresql://u:hunter2", "an unreadable URL"),
        ("postgresql:/u:hunter2@h/d", "an unreadable URL"),
        ("host=h password=hunter2", "an unreadable URL"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, text: str) -> None:
    assert shown(url) == text


@pytest.mark.parametrize("password", ["hunter2", "hün/ter 2+%", "a"])
def test_no_spelling_of_a_password_is_left_in_a_message(password: str) -> None:
    for url in (f"postgresql://u:{quote(password)}@H/D", f"postgresql://H/D?password={quote(password, safe='')}"):
        message = f"<{password}> <{quote(password)}> <{quote(password, safe='')}>"
        assert without_password(message, url) == "<***> <***> <***>"
    assert without_password("as it is", "redis://h") == "as it is"


@pytest.mark.parametrize(
    ("environment", "db"),
    [
        ({"DATABASE_URL": "postgresql://u:hun?hunter2@h/d"}, None),
        ({"DATABASE_URL": "postgresql://u:x@h:hunter2/d"}, None),
        ({"DATABASE_URL": "host=h password=hunter2"}, None),
        ({"DB_PATH": "postgresql://u:hunter2@h/d"}, None),
        ({"REDIS_URL": "redis://:x@h:hunter2"}, None),
        ({"REDIS_URL": "redis:/u:hunter2@h"}, None),
        ({}, "postgresql://u:hunter2@h/d"),
        ({}, "postgresql://h/d?password=hunter2"),
        ({}, "postgresql:/u:hunter2@h/d"),
        ({}, "u:hunter2@h"),
        ({}, "host=h password=hunter2"),
    ],
)
def test_a_refused_setting_is_reported_without_its_password(environment: dict[str, str], db: str | None) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(environment, db=db)
    assert "hunter2" not in str(caught.value)


def test_a_file_of_any_name_is_a_database(tmp_path: object) -> None:
    path = f"{tmp_path}/a:b@password=c.db"
    with open(path, "w"):  # noqa: PTH123
        assert str(settings.load({}, db=path).database_path) == path


def test_the_stacks_tables_get_the_place_of_the_rows_without_a_password() -> None:
    tables = StackTables("postgresql+psycopg://u:hunter2@127.0.0.1:1/d?password=hunter2")
    assert tables._place == "postgresql://u@127.0.0.1:1/d"
