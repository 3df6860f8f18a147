"""Reads every SQLite database and decides its role: training source, backup, other rows, empty, unrelated."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from retrain_worker.discovery.directory_walk import Found
from retrain_worker.discovery.file_classification import Kind
from retrain_worker.discovery.progress import Progress
from retrain_worker.discovery.proof_pack import Role, Table, TrainingTable
from retrain_worker.discovery.read_only_sqlite import SECOND, ReadOnlyConnection, read
from retrain_worker.domain.printable import printable

TABLE = "ai_training_samples"
#: role of a file that was found, but not read
NOT_READ = Role.NOT_EXAMINED, "not read: the search was interrupted"
#: without these a table of this name is no training table
_NEEDED = ("id", "symbol", "timestamp", "features", "target_class")
_LABELLED = "target_class IN ('WIN', 'LOSS')"
#: rows of other tables are counted for this long, then the table is listed as not counted
_MAX_COUNT_SECONDS = 2.0
_MAX_DAYS = 100_000
#: labelled rows of so many days before the newest one decide which database is the source
_NEWEST_DAYS = 180
#: share of its rows that must be in the source, unchanged, for a database to be an earlier state of it
_MIN_SHARED = 0.99


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The content of one database; `problem` is the reason why it could not be read."""

    found: Found
    tables: tuple[Table, ...] = ()
    training: TrainingTable | None = None
    problem: str = ""
    #: day as ISO 8601 -> labelled rows
    labelled_by_day: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows of a database: all, those that the source has too, those of them with the same label; rows of the source."""

    total: int
    shared: int
    same: int
    in_source: int


def survey(found: Found, progress: Progress) -> Survey:
    """Read one file. Never raises for what is wrong with the file."""
    if found.kind is Kind.NO_DATABASE:
        return Survey(found=found, problem="" if found.size == 0 else "not a SQLite database")
    try:
        return read(partial(_survey, found), found.path, is_stopped=progress.is_stopped)
    except (sqlite3.Error, OSError) as error:
        return Survey(found=found, problem=_problem(error))


def source_of(surveys: Sequence[Survey], configured: Collection[Path], now: datetime) -> Survey | None:
    """The readable one with the most labelled rows in the newest days that any has; of equals the configured one."""
    tomorrow = (now + timedelta(days=1)).date().isoformat()
    candidates = [(each, each.training) for each in surveys if each.training is not None and each.training.rows]
    past = [day for each, _ in candidates for day in each.labelled_by_day if _is_day(day) and day <= tomorrow]
    newest = max(past, default="")
    oldest = (datetime.fromisoformat(newest) - timedelta(days=_NEWEST_DAYS)).date().isoformat() if newest else ""

    def weight(candidate: tuple[Survey, TrainingTable]) -> tuple[int, int, str, bool, float, int]:
        each, training = candidate
        return (
            sum(count for day, count in each.labelled_by_day.items() if oldest <= day <= newest),
            training.labelled,
            training.newest_labelled_at,
            each.found.path in configured,
            each.found.modified,
            -len(str(each.found.path)),
        )

    best = max(candidates, key=weight, default=None)
    return best[0] if best else None


def compare(each: Survey, source: Survey, progress: Progress) -> Comparison | str:
    """The training rows of `each` beside those of the source, or why they could not be compared."""
    try:
        return read(_compare, each.found.path, source.found.path, is_stopped=progress.is_stopped)
    except (sqlite3.Error, OSError) as error:
        return f"could not be compared with the source: {_problem(error)}"


def role_of(each: Survey, source: Survey | None, comparison: Comparison | str | None) -> tuple[Role, str]:
    """The role of a database, and the reason. `comparison`: with the source; None: not made."""
    if each.problem:
        return Role.UNREADABLE, each.problem
    if each.found.size == 0:
        return Role.EMPTY, "0 bytes: no table, no rows"
    if each is source and each.training is not None:
        newest = each.training.newest_labelled_at or "no known time"
        return Role.SOURCE, f"{each.training.labelled:,} labelled rows, the newest of {newest}"
    if not any(table.rows is None or table.rows for table in each.tables):
        return Role.EMPTY, "no table has a row" if each.tables else "no table"
    if each.training is None or not each.training.rows:
        return Role.UNRELATED, _why_unrelated(each)
    return _role_beside(comparison)


def columns_of(connection: ReadOnlyConnection) -> set[str]:
    """The columns of the training table, in lower case."""
    return {str(name).lower() for (name,) in connection.rows("SELECT name FROM pragma_table_info(?)", TABLE)}


def _survey(found: Found, connection: ReadOnlyConnection) -> Survey:
    tables = tuple(_tables(connection))
    if TABLE not in {table.name for table in tables} or not set(_NEEDED) <= columns_of(connection):
        return Survey(found=found, tables=tables)
    ((rows, labelled, first, last, newest),) = connection.rows(
        f"SELECT count(*), total({_LABELLED}), min(timestamp), max(timestamp), "  # noqa: S608 (constants)
        f"max(CASE WHEN {_LABELLED} THEN timestamp END) FROM {TABLE}"
    )
    days = connection.rows(
        f"SELECT substr(timestamp, 1, 10), count(*) FROM {TABLE} "  # noqa: S608 (constants)
        f"WHERE {_LABELLED} GROUP BY 1 LIMIT {_MAX_DAYS}"
    )
    training = TrainingTable(
        rows=rows,
        labelled=int(labelled),
        first_at=printable(first or ""),
        last_at=printable(last or ""),
        newest_labelled_at=printable(newest or ""),
    )
    return Survey(
        found=found, tables=tables, training=training, labelled_by_day={str(day): count for day, count in days}
    )


def _tables(connection: ReadOnlyConnection) -> Iterator[Table]:
    names = connection.rows(
        "SELECT name FROM sqlite_schema WHERE (type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\') "
        "OR (type = 'view' AND name = ?) ORDER BY name",
        TABLE,
    )
    for (name,) in names:
        quoted = name.replace('"', '""')
        try:
            ((rows,),) = connection.rows(f'SELECT count(*) FROM "{quoted}"', seconds=_MAX_COUNT_SECONDS)  # noqa: S608
        except sqlite3.OperationalError:  # a missing module, or too long; damage raises DatabaseError
            rows = None
        yield Table(name=printable(name), rows=rows)


def _compare(connection: ReadOnlyConnection) -> Comparison:
    shared = " AND ".join(f"mine.{column} IS theirs.{column}" for column in ("symbol", "timestamp", "features"))
    ((total, num_shared, num_same, in_source),) = connection.rows(
        f"SELECT count(*), total(theirs.id IS NOT NULL AND {shared}), "  # noqa: S608 (constants)
        f"total(theirs.id IS NOT NULL AND {shared} AND mine.target_class IS theirs.target_class), "
        f"(SELECT count(*) FROM {SECOND}.{TABLE} WHERE typeof(id) = 'integer') "
        f"FROM main.{TABLE} AS mine LEFT JOIN {SECOND}.{TABLE} AS theirs ON theirs.id = mine.id "
        "WHERE typeof(mine.id) = 'integer'"
    )
    return Comparison(total=total, shared=int(num_shared), same=int(num_same), in_source=in_source)


def _why_unrelated(each: Survey) -> str:
    if each.training is not None:
        return f"its {TABLE} is empty"
    has_table = any(table.name == TABLE for table in each.tables)
    return f"its {TABLE} lacks required columns" if has_table else f"no table {TABLE}"


def _role_beside(comparison: Comparison | str | None) -> tuple[Role, str]:
    if comparison is None:
        return Role.NOT_EXAMINED, "not compared with the source: the search was interrupted"
    if isinstance(comparison, str):
        return Role.OTHER_TRAINING, comparison
    if comparison.same == comparison.total == comparison.in_source:
        return Role.BACKUP, f"the same {comparison.total:,} training rows as the source"
    if comparison.total and comparison.shared / comparison.total >= _MIN_SHARED:
        return Role.BACKUP, (
            f"an earlier state of the source, which has {comparison.shared:,} of its {comparison.total:,} training "
            f"rows, {comparison.same:,} of them with the same label, and {comparison.in_source:,} in all"
        )
    return Role.OTHER_TRAINING, f"the source has {comparison.shared:,} of its {comparison.total:,} training rows"


def _is_day(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).date().isoformat() == text
    except ValueError:
        return False


def _problem(error: sqlite3.Error | OSError) -> str:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    text = printable(error.strerror if isinstance(error, OSError) and error.strerror else error)
    return {
        sqlite3.SQLITE_BUSY: f"locked by a writer ({text})",
        sqlite3.SQLITE_LOCKED: f"locked by a writer ({text})",
        sqlite3.SQLITE_CORRUPT: f"damaged ({text})",
        sqlite3.SQLITE_NOTADB: f"damaged ({text})",
        sqlite3.SQLITE_READONLY: f"a writer was killed and left a journal that must be rolled back first ({text})",
        sqlite3.SQLITE_INTERRUPT: "reading it takes too long",
    }.get(code, text)
