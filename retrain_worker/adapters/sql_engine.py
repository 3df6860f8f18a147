"""SQLAlchemy engines of the daemon. It is imported for the first one: it is a sixth of the memory of an idle daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrain_worker.domain.connection_url import shown
from retrain_worker.errors import DatabaseUnreachableError, install_extra

if TYPE_CHECKING:
    import sqlalchemy as sa


def engine_of(url: str | sa.URL, connect_args: Mapping[str, Any]) -> sa.Engine:
    """An engine that opens a connection for each transaction; nothing is opened yet.

    Raises DatabaseUnreachableError, which names the extra, where the driver is not installed.
    """
    import sqlalchemy as sa

    try:
        return sa.create_engine(url, poolclass=sa.NullPool, connect_args=dict(connect_args))
    except ModuleNotFoundError as error:
        raise DatabaseUnreachableError(
            f"the PostgreSQL driver is not installed ({error})",
            where=shown(str(url)),
            remedy=install_extra("postgres"),
        ) from error
