"""Writes the stack's own tables ai_model_versions and model_training_runs, where they exist.

They belong to the stack and are in the trading database: one short transaction for each finished run, and for each
change of the model in service, upserted by version, so that a repeat changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from retrain_worker.adapters.account_names import user_name
from retrain_worker.adapters.sql_engine import engine_of
from retrain_worker.domain.artifact import MODEL_TYPE, version_of
from retrain_worker.domain.connection_url import shown, user_of, without_password
from retrain_worker.domain.database_url import is_postgresql, sqlite_path
from retrain_worker.domain.facts import PromoteFacts
from retrain_worker.domain.lifecycle import Deployment, Outcome, Run
from retrain_worker.errors import DatabaseBusyError, RowRefusedError

if TYPE_CHECKING:
    import sqlalchemy as sa

_VERSIONS, _RUNS = "ai_model_versions", "model_training_runs"
#: SQLSTATE of PostgreSQL
_INSUFFICIENT_PRIVILEGE = "42501"
#: the columns that say which version is active
_ACTIVITY = frozenset({"version_id", "model_type", "is_active"})


#: what the stack's ORM writes into a new row of ai_model_versions, and its services count up
_COUNTERS = {"total_predictions": 0, "correct_predictions": 0, "total_pnl": 0.0}


class StackTables:
    """Opens a connection for each transaction."""

    def __init__(self, database_url: str, *, busy_timeout_seconds: float = 5.0) -> None:
        """Nothing is opened yet. An SQLite file is never created."""
        self._url = database_url
        self._busy_timeout_seconds = busy_timeout_seconds
        #: for messages
        self._place = shown(database_url) if is_postgresql(database_url) else sqlite_path(database_url)
        self._user = user_of(database_url) or user_name()

    def record(self, run: Run, *, serving: Deployment | None) -> None:
        """Write `run` into the tables that exist; a version is active if it is that of `serving`.

        Raises DatabaseBusyError when trying again may help, RowRefusedError when the tables reject this row.
        """
        with self._tables(_RUNS, _VERSIONS) as (connection, tables):
            if _RUNS in tables:
                _upsert(connection, tables[_RUNS], "version", _run_row(run, dataset_path=self._place))
            promoted = run.facts.promote
            if _VERSIONS in tables and run.outcome is Outcome.PROMOTED and promoted is not None:
                row = _version_row(run, promoted, serving)
                _upsert(connection, tables[_VERSIONS], "version_id", row, defaults=_COUNTERS)

    def record_serving(self, serving: Deployment) -> None:
        """The model in the slot is active, external or not, and no other one. Raises as `record`.

        A model without a row makes the other rows inactive only if it is known to have replaced a model: the stack may
        have its row under another name.
        """
        with self._tables(_VERSIONS) as (connection, tables):
            table = tables.get(_VERSIONS)
            if table is None or not set(table.c.keys()) >= _ACTIVITY:
                return
            is_serving = table.c.version_id == serving.version
            if "file_path" in table.c and serving.model_path:
                is_serving |= table.c.file_path == serving.model_path
            active = _known(table, {"is_active": True, "replaced_at": None})
            num_known = connection.execute(table.update().where(is_serving).values(**active)).rowcount
            if not num_known and not serving.previous_model_path:
                return
            others = (table.c.model_type == MODEL_TYPE) & ~is_serving & table.c.is_active
            replaced = _known(table, {"is_active": False, "replaced_at": _naive(serving.created_at)})
            connection.execute(table.update().where(others).values(**replaced))

    @cached_property
    def _engine(self) -> sa.Engine:
        if is_postgresql(self._url):
            return engine_of(self._url, {})
        url = f"sqlite:///file:{quote(os.fsencode(sqlite_path(self._url)))}?mode=rw&uri=true"
        return engine_of(url, {"timeout": self._busy_timeout_seconds})

    @contextmanager
    def _tables(self, *names: str) -> Iterator[tuple[sa.Connection, Mapping[str, sa.Table]]]:
        """One transaction, and those of these tables that exist. Raises DatabaseBusyError, RowRefusedError."""
        import sqlalchemy as sa

        try:
            with self._engine.begin() as connection:
                present = set(sa.inspect(connection).get_table_names()) & set(names)
                metadata = sa.MetaData()
                metadata.reflect(connection, only=sorted(present))
                yield connection, metadata.tables
        except (sa.exc.IntegrityError, sa.exc.DataError) as error:
            raise RowRefusedError(
                self._reason(error),
                where=self._operation(names),
                remedy="see the constraints of the table, or set BOOKKEEPING=false",
            ) from None
        except sa.exc.SQLAlchemyError as error:
            action = "grant write access or set" if _is_denied(error) else "if this lasts, set"
            raise DatabaseBusyError(
                f"{self._reason(error)} (user {self._user})",
                where=self._operation(names),
                remedy=f"{action} BOOKKEEPING=false",
            ) from None

    def _operation(self, names: Iterable[str]) -> str:
        return f"cannot update {' and '.join(names)} in {self._place}"

    def _reason(self, error: sa.exc.SQLAlchemyError) -> str:
        """The driver's message, one line."""
        text = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
        return without_password(text, self._url)


def _is_denied(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether the error code means that this user may not write."""
    cause = getattr(error, "orig", None)
    code = str(getattr(cause, "sqlite_errorname", "") or getattr(cause, "sqlstate", ""))
    return code.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")) or code == _INSUFFICIENT_PRIVILEGE


def _upsert(
    connection: sa.Connection,
    table: sa.Table,
    key: str,
    row: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """`defaults` are the values of a new row that the stack changes later."""
    known = _known(table, row)
    changed = connection.execute(table.update().where(table.c[key] == row[key]).values(**known)).rowcount
    if not changed:
        connection.execute(table.insert().values(**_known(table, defaults), **known))


def _known(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The values for which the table has a column."""
    return {name: _stored(value, table.c[name].type) for name, value in row.items() if name in table.c}


def _stored(value: Any, kind: Any) -> Any:
    """Instants, which are naive UTC, as text where the column is not one of instants; JSON text as what it holds."""
    import sqlalchemy as sa

    if isinstance(value, datetime):
        if not isinstance(kind, sa.DateTime):
            return value.isoformat(" ")
        return value.replace(tzinfo=UTC) if kind.timezone else value
    return json.loads(value) if isinstance(kind, sa.JSON) and isinstance(value, str) else value


def _run_row(run: Run, *, dataset_path: str) -> dict[str, Any]:
    facts = run.facts
    model_path = facts.promote.model_path if facts.promote else facts.train.candidate_path if facts.train else None
    return {
        "version": version_of(run.run_id),
        "status": str(run.outcome).lower(),
        "started_at": _naive(run.created_at),
        "completed_at": _naive(run.finished_at or run.updated_at),
        "dataset_path": dataset_path,
        # the transform of the input is in the model file
        "scaler_path": "",
        "symbol_count": len(facts.pull.symbols) if facts.pull else 0,
        "sample_count": facts.pull.rows.labelled if facts.pull else 0,
        "feature_count": len(facts.pull.feature_names) if facts.pull else 0,
        "model_path": model_path or "",
        "metrics": msgspec.json.encode(facts.gate and facts.gate.candidate).decode(),
        "notes": "; ".join(run.reasons),
    }


def _version_row(run: Run, promoted: PromoteFacts, serving: Deployment | None) -> dict[str, Any]:
    card = run.facts.gate.candidate if run.facts.gate else None
    balanced = run.facts.train.parts.get("train_balanced", {}) if run.facts.train else {}
    return {
        "version_id": promoted.version,
        "model_type": MODEL_TYPE,
        "file_path": promoted.model_path,
        # the same in every write: a run on probation is written twice
        "trained_at": _naive(run.created_at),
        "training_samples": sum(balanced.values()),
        "training_duration_seconds": run.seconds.get("train"),
        "validation_accuracy": card.accuracy if card else None,
        "is_active": serving is not None and serving.version == promoted.version,
        "notes": f"run {run.run_id}, holdout AUC {card.auc if card else 'unknown'}",
    }


def _naive(instant: datetime | None) -> datetime | None:
    """Naive UTC: only at the table's edge."""
    return instant.replace(tzinfo=None) if instant else None
