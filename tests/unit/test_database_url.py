"""Every spelling of a database URL names one database for the settings, the start check and the worker."""

import pytest

from retrain_worker import settings
from retrain_worker.domain.database_url import canonical, is_postgresql


@pytest.mark.parametrize(
    "scheme",
    [
        "postgres",
        "postgresql",
        "POSTGRESQL",
        "pgsql",
        "postgresql+psycopg",
        "postgresql+psycopg2",
        "postgresql+asyncpg",
    ],
)
def test_a_postgresql_url_of_any_library_is_accepted_and_read_with_psycopg(scheme: str) -> None:
    loaded = settings.load({"DATABASE_URL": f"{scheme}://u:p%40ss@db.internal:5433/quantum?application_name=x"})
    assert str(loaded.database_url) == "postgresql+psycopg://u:p%40ss@db.internal:5433/quantum?application_name=x"
    assert loaded.database_path is None


def test_a_sqlite_url_of_another_driver_names_its_file() -> None:
    assert str(settings.load({"DATABASE_URL": "sqlite+aiosqlite:////data/t.db"}).database_path) == "/data/t.db"


@pytest.mark.parametrize("url", ["mysql://u@h/d", "/data/t.db", "postgresqlx://h/d", ""])
def test_anything_else_stays_as_it_is(url: str) -> None:
    assert canonical(url) == url
    assert not is_postgresql(url)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ssl=require", "?sslmode=require"),
        ("ssl=true", "?sslmode=require"),
        ("ssl=false&sslrootcert=/a%20b.pem", "?sslmode=disable&sslrootcert=%2Fa+b.pem"),
        ("prepared_statement_cache_size=0", ""),
        ("host=/run/postgresql", "?host=/run/postgresql"),
    ],
)
def test_parameters_of_other_libraries_become_those_of_libpq(query: str, expected: str) -> None:
    assert canonical(f"postgresql+asyncpg://h/d?{query}") == f"postgresql+psycopg://h/d{expected}"
