"""The stack's own bookkeeping: rows in ai_model_versions and model_training_runs, when those tables exist.

The tables belong to the stack and live in the trading database: one short transaction for each finished run, and for
each change of what serves, upserted by version, so that a repeat changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from retrain_worker.domain.artifact import MODEL_TYPE, version_of
from retrain_worker.domain.lifecycle import Deployment, Outcome, Run, Stage
from retrain_worker.errors import DatabaseBusyError, RowRefusedError

_VERSIONS, _RUNS = "ai_model_versions", "model_training_runs"
#: the columns that say which version is active
_ACTIVITY = frozenset({"version_id", "model_type", "is_active"})


class StackTables:
    """Writes what a finished run means for the stack's own tables."""

    def __init__(self, database_url: str, *, busy_timeout_seconds: float = 5.0) -> None:
        """Nothing is opened yet. An SQLite file is opened read-write, and never created."""
        url = sa.make_url(database_url)
        arguments: dict[str, Any] = {}
        if url.get_backend_name() == "sqlite":
            url = url.set(database=f"file:{quote(url.database or '')}", query={"mode": "rw", "uri": "true"})
            arguments["timeout"] = busy_timeout_seconds
        self._engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=arguments)

    def record(self, run: Run, *, serving: Deployment | None) -> None:
        """Write `run` into the tables that exist; a version is active if it is that of `serving`.

        Raises DatabaseBusyError when that is to be tried again, RowRefusedError when the tables do not take this row.
        """
        with self._tables(f"bookkeeping of run {run.run_id}") as (connection, tables):
            if _RUNS in tables:
                _upsert(connection, tables[_RUNS], "version", _run_row(run))
            if _VERSIONS in tables and run.outcome is Outcome.PROMOTED:
                _upsert(connection, tables[_VERSIONS], "version_id", _version_row(run, serving))

    def record_serving(self, serving: Deployment) -> None:
        """Active is what stands in the slot, whoever put it there, and no other. Raises as `record`.

        A model that the table does not know makes no row of it inactive unless it is known that it took their place:
        the stack may have named its own model otherwise.
        """
        with self._tables(f"bookkeeping of {serving.version}") as (connection, tables):
            table = tables.get(_VERSIONS)
            if table is None or not set(table.c.keys()) >= _ACTIVITY:
                return
            is_serving = table.c.version_id == serving.version
            if "file_path" in table.c and serving.model_path:
                is_serving |= table.c.file_path == serving.model_path
            active = _known(table, {"is_active": True, "replaced_at": None})
            num_known = connection.execute(sa.update(table).where(is_serving).values(**active)).rowcount
            if not num_known and not serving.previous_model_path:
                return
            others = (table.c.model_type == MODEL_TYPE) & ~is_serving & table.c.is_active
            replaced = _known(table, {"is_active": False, "replaced_at": _naive(serving.created_at)})
            connection.execute(sa.update(table).where(others).values(**replaced))

    @contextmanager
    def _tables(self, what: str) -> Iterator[tuple[sa.Connection, Mapping[str, sa.Table]]]:
        """One transaction, and those of the two tables that exist; its errors as ours."""
        try:
            with self._engine.begin() as connection:
                present = set(sa.inspect(connection).get_table_names()) & {_VERSIONS, _RUNS}
                metadata = sa.MetaData()
                metadata.reflect(connection, only=sorted(present))
                yield connection, metadata.tables
        except (sa.exc.IntegrityError, sa.exc.DataError) as error:
            reason = " ".join(str(error.orig).split())
            raise RowRefusedError(
                f"{what} is refused ({reason})",
                where=self._where,
                remedy="see what the table demands; BOOKKEEPING=false turns it off",
            ) from None
        except sa.exc.SQLAlchemyError as error:
            raise DatabaseBusyError(
                f"{what} was not written ({type(error).__name__})",
                where=self._where,
                remedy="it is tried again; BOOKKEEPING=false turns it off",
            ) from None

    @property
    def _where(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)


def _upsert(connection: sa.Connection, table: sa.Table, key: str, row: Mapping[str, Any]) -> None:
    known = _known(table, row)
    changed = connection.execute(sa.update(table).where(table.c[key] == row[key]).values(**known)).rowcount
    if not changed:
        connection.execute(sa.insert(table).values(**known))


def _known(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The values for which the table has a column."""
    return {name: value for name, value in row.items() if name in table.c}


def _run_row(run: Run) -> dict[str, Any]:
    pulled, trained, promoted = run.fact(Stage.PULL), run.fact(Stage.TRAIN), run.fact(Stage.PROMOTE)
    return {
        "version": version_of(run.run_id),
        "status": str(run.outcome).lower(),
        "started_at": _naive(run.created_at),
        "completed_at": _naive(run.finished_at or run.updated_at),
        "symbol_count": len(pulled.get("symbols", {})),
        "sample_count": pulled.get("rows", {}).get("labelled"),
        "feature_count": len(pulled.get("feature_names", ())),
        "model_path": promoted.get("model_path") or trained.get("candidate_path"),
        "metrics": json.dumps(run.fact(Stage.GATE).get("candidate"), default=str),
        "notes": "; ".join(run.reasons),
    }


def _version_row(run: Run, serving: Deployment | None) -> dict[str, Any]:
    card, trained = run.fact(Stage.GATE)["candidate"], run.fact(Stage.TRAIN)
    return {
        "version_id": trained["version"],
        "model_type": MODEL_TYPE,
        "file_path": run.fact(Stage.PROMOTE)["model_path"],
        # the same in every write: a run on probation is written twice
        "trained_at": _naive(run.created_at),
        "training_samples": sum(trained["parts"].get("train_balanced", {}).values()),
        "training_duration_seconds": run.seconds.get("train"),
        "validation_accuracy": card.get("accuracy"),
        "is_active": serving is not None and serving.version == trained["version"],
        "notes": f"run {run.run_id}, holdout AUC {card.get('auc')}",
    }


def _naive(instant: datetime | None) -> datetime | None:
    """Naive UTC: only at the table's edge."""
    return instant.replace(tzinfo=None) if instant else None
