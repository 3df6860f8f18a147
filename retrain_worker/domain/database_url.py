"""The URL of the trading database under the one name that every reader of it understands."""

from __future__ import annotations

#: what SQLAlchemy, Heroku, asyncpg and others call a PostgreSQL database, with or without `+driver`
_POSTGRESQL_SCHEMES = frozenset({"postgresql", "postgres", "pgsql", "psql"})


def canonical(url: str) -> str:
    """`url` with `postgresql+psycopg://` for every PostgreSQL scheme and without the driver of another library.

    `postgres://`, `postgresql+asyncpg://` and `postgresql+psycopg2://` name the same database; only the library that
    another program opens it with differs. `sqlite+aiosqlite://` likewise. Anything else is returned as it is.
    """
    scheme, separator, rest = url.partition("://")
    kind = scheme.partition("+")[0].lower()
    if not separator:
        return url
    if kind in _POSTGRESQL_SCHEMES:
        return f"postgresql+psycopg://{rest}"
    return f"sqlite://{rest}" if kind == "sqlite" else url


def is_postgresql(url: str) -> bool:
    """Whether `url`, in any spelling, names a PostgreSQL database."""
    return canonical(url).startswith("postgresql+psycopg://")
