"""The URL of the trading database in one spelling that every reader of it understands."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlencode

from retrain_worker.domain.connection_url import requoted

#: what SQLAlchemy, Heroku, asyncpg and others call a PostgreSQL database, with or without `+driver`
_POSTGRESQL_SCHEMES = frozenset({"postgresql", "postgres", "pgsql", "psql"})
_POSTGRESQL = "postgresql+psycopg://"
#: parameters of other libraries that libpq rejects, and the encoding, which the reader sets itself
_NOT_OF_LIBPQ = frozenset(
    {
        "server_settings",
        "command_timeout",
        "statement_cache_size",
        "prepared_statement_cache_size",
        "async_fallback",
        "charset",
        "client_encoding",
    }
)
#: values of asyncpg's `ssl` that are none of libpq's `sslmode`
_SSL_MODES = {"true": "require", "1": "require", "on": "require", "false": "disable", "0": "disable", "off": "disable"}


def canonical(url: str) -> str:
    """`url` with `postgresql+psycopg://` for every PostgreSQL scheme and without the driver of another library.

    `postgres://`, `postgresql+asyncpg://` and `postgresql+psycopg2://` name the same database; only the library that
    another program opens it with differs. `sqlite+aiosqlite://` likewise. Anything else is returned as it is.
    Raises ValueError, without any part of the URL, where user, password or query cannot be told apart.
    """
    if is_postgresql(url):
        return _POSTGRESQL + _with_parameters_of_libpq(requoted(url).partition("://")[2])
    return f"sqlite://{url.partition('://')[2]}" if _kind_of(url) == "sqlite" else url


def is_postgresql(url: str) -> bool:
    """Whether `url`, in any spelling, names a PostgreSQL database."""
    return _kind_of(url) in _POSTGRESQL_SCHEMES


def sqlite_path(url: str) -> str:
    """The file that an SQLite URL in the canonical spelling names."""
    return unquote(url.removeprefix("sqlite:///").partition("?")[0], errors="surrogateescape")


def _kind_of(url: str) -> str:
    """The scheme without a driver; empty for text that is no URL."""
    scheme, separator, _ = url.partition("://")
    return scheme.partition("+")[0].lower() if separator else ""


def _with_parameters_of_libpq(rest: str) -> str:
    place, separator, query = rest.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    if not any(name == "ssl" or name in _NOT_OF_LIBPQ for name, _ in given):
        return place + separator + query
    kept = [
        ("sslmode", _SSL_MODES.get(value.lower(), value)) if name == "ssl" else (name, value)
        for name, value in given
        if name not in _NOT_OF_LIBPQ
    ]
    return f"{place}?{urlencode(kept)}" if kept else place
