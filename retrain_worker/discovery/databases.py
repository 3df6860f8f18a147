"""Reads what every SQLite database holds, and tells the training source from its backups, the empty, and the rest."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from retrain_worker.discovery.content import Kind
from retrain_worker.discovery.pack import Database, FileFacts, Role, Table, TrainingTable, shown
from retrain_worker.discovery.scan import Found
from retrain_worker.discovery.sqlite_file import limit_time, looked_into

TABLE = "ai_training_samples"
#: without these a table of this name is no training table
_NEEDED = ("id", "symbol", "timestamp", "features", "target_class")
#: what never changes in a row, and what is filled in later
_LASTING, _LATER = ("id", "symbol", "timestamp", "features"), ("target_class",)
_LABELLED = "target_class IN ('WIN', 'LOSS')"
_MAX_DAYS = 100_000
#: days before the newest labelled row in which labelled rows are counted, to find who is the source
_NEWEST_DAYS = 180
#: share of its rows that must stand in the source, unchanged, for a database to be an earlier state of it
_MIN_SHARED = 0.99


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one database holds; `problem` says why it could not be read, or not wholly."""

    found: Found
    tables: tuple[Table, ...] = ()
    training: TrainingTable | None = None
    problem: str = ""
    #: day as ISO 8601 -> labelled rows
    labelled_by_day: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows of all tables that could be counted."""
        return sum(table.rows or 0 for table in self.tables)


def survey(found: Found) -> Survey:
    """Look into one file. Never raises for what is wrong with the file."""
    if found.kind is Kind.NO_DATABASE:
        return Survey(found=found, problem="" if found.size == 0 else "this is not a SQLite database")
    try:
        return looked_into(partial(_survey, found), found.path)
    except (sqlite3.Error, OSError) as error:
        return Survey(found=found, problem=_in_words(error))


def _survey(found: Found, connection: sqlite3.Connection) -> Survey:
    tables = tuple(_tables(connection))
    if TABLE not in {table.name for table in tables} or not set(_NEEDED) <= set(columns_of(connection)):
        return Survey(found=found, tables=tables)
    training, days = _training(connection)
    return Survey(found=found, tables=tables, training=training, labelled_by_day=days)


def columns_of(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The columns of the training table, in lower case."""
    return tuple(str(name).lower() for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (TABLE,)))


def judged(
    surveys: Sequence[Survey],
    *,
    facts: Mapping[Path, FileFacts],
    configured: Sequence[Path],
    now: datetime,
    say: Callable[[str], None],
) -> tuple[tuple[Database, ...], Survey | None]:
    """Every database with its role, the source first; and the source. `configured` decides between equals."""
    source = _source(surveys, configured, now)
    databases = []
    for each in surveys:
        if source is not None and each is not source and each.training is not None:
            say(f"comparing {shown(each.found.path)} with the source")
        role, why = _role(each, source)
        databases.append(
            Database(file=facts[each.found.path], role=role, why=why, tables=each.tables, training=each.training)
        )
    order = list(Role)
    return tuple(sorted(databases, key=lambda one: (order.index(one.role), one.file.path))), source


def _tables(connection: sqlite3.Connection) -> Iterator[Table]:
    names = [
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE (type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\') "
            "OR (type = 'view' AND name = ?) ORDER BY name",
            (TABLE,),
        )
    ]
    for name in names:
        quoted = name.replace('"', '""')
        limit_time(connection)
        try:
            ((rows,),) = connection.execute(f'SELECT count(*) FROM "{quoted}"')  # noqa: S608 (quoted as an identifier)
        except sqlite3.OperationalError:  # a module that is not here, or too long; damage is another class
            rows = None
        yield Table(name=shown(name), rows=rows)


def _training(connection: sqlite3.Connection) -> tuple[TrainingTable, dict[str, int]]:
    limit_time(connection)
    ((rows, labelled, first, last, newest),) = connection.execute(
        f"SELECT count(*), total({_LABELLED}), min(timestamp), max(timestamp), "  # noqa: S608 (constants)
        f"max(CASE WHEN {_LABELLED} THEN timestamp END) FROM {TABLE}"
    )
    limit_time(connection)
    days = connection.execute(
        f"SELECT substr(timestamp, 1, 10), count(*) FROM {TABLE} "  # noqa: S608 (constants)
        f"WHERE {_LABELLED} GROUP BY 1"
    ).fetchmany(_MAX_DAYS)
    table = TrainingTable(
        rows=rows,
        labelled=int(labelled),
        first_at=shown(first or ""),
        last_at=shown(last or ""),
        newest_labelled_at=shown(newest or ""),
    )
    return table, {str(day): count for day, count in days}


def _source(surveys: Sequence[Survey], configured: Sequence[Path], now: datetime) -> Survey | None:
    """The readable one with the most labelled rows in the newest days that any of them has."""
    tomorrow = (now + timedelta(days=1)).date().isoformat()
    candidates = [each for each in surveys if each.training is not None and each.training.rows]
    past = [day for each in candidates for day in each.labelled_by_day if _is_day(day) and day <= tomorrow]
    newest = max(past, default="")
    oldest = (datetime.fromisoformat(newest) - timedelta(days=_NEWEST_DAYS)).date().isoformat() if newest else ""

    def weight(each: Survey) -> tuple[int, int, str, bool, float, int]:
        training = each.training
        assert training is not None, "only candidates are weighed"
        recent = sum(count for day, count in each.labelled_by_day.items() if oldest <= day <= newest)
        return (
            recent,
            training.labelled,
            training.newest_labelled_at,
            each.found.path in configured,
            each.found.modified,
            -len(str(each.found.path)),
        )

    return max(candidates, key=weight, default=None)


def _is_day(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).date().isoformat() == text
    except ValueError:
        return False


def _role(each: Survey, source: Survey | None) -> tuple[Role, str]:
    if each.problem:
        return Role.UNREADABLE, each.problem
    if each.found.size == 0:
        return Role.EMPTY, "0 bytes: no table, no rows"
    if each is source:
        assert each.training is not None, "the source is chosen by its training table"
        newest = each.training.newest_labelled_at or "no known time"
        return Role.SOURCE, f"{each.training.labelled:,} labelled rows, the newest of {newest}"
    if not any(table.rows is None or table.rows for table in each.tables):
        return Role.EMPTY, "no table holds a row" if each.tables else "no table"
    if each.training is None or not each.training.rows or source is None:
        return Role.UNRELATED, _why_unrelated(each)
    return _compared(each, source)


def _why_unrelated(each: Survey) -> str:
    if each.training is not None:
        return f"{TABLE} is empty here"
    if any(table.name == TABLE for table in each.tables):
        return f"its {TABLE} lacks columns that training needs"
    return f"no table {TABLE}"


def _compared(each: Survey, source: Survey) -> tuple[Role, str]:
    """Whether the rows of one are those of the source, an earlier state of them, or others."""
    try:
        total, lasting, whole, in_source = looked_into(_shared, each.found.path, source.found.path)
    except (sqlite3.Error, OSError) as error:
        return Role.OTHER_TRAINING, f"could not be compared with the source: {_in_words(error)}"
    if whole == total == in_source:
        return Role.BACKUP, f"the same {total:,} training rows as the source"
    if total and lasting / total >= _MIN_SHARED:
        return Role.BACKUP, (
            f"an earlier state of the source: {lasting:,} of its {total:,} training rows stand there, "
            f"{whole:,} of them with the same label; the source has {in_source:,}"
        )
    return Role.OTHER_TRAINING, f"other rows than the source: {lasting:,} of {total:,} stand in both"


def _shared(ours: sqlite3.Connection, theirs: sqlite3.Connection) -> tuple[int, int, int, int]:
    """Our rows, those of them that stand in both, those with the same label too, and their rows. Bounded memory."""
    total = lasting = whole = in_source = 0
    other = _digests(theirs)
    their_id, *their_digests = next(other, _END)
    in_source += their_id != _END[0]
    for our_id, *our_digests in _digests(ours):
        total += 1
        while their_id < our_id:
            their_id, *their_digests = next(other, _END)
            in_source += their_id != _END[0]
        if their_id == our_id:
            lasting += our_digests[0] == their_digests[0]
            whole += our_digests == their_digests
    return total, lasting, whole, in_source + sum(1 for _ in other)


_END = (float("inf"), b"", b"")


def _digests(connection: sqlite3.Connection) -> Iterator[tuple[float, bytes, bytes]]:
    """(id, hash of what never changes, hash of the label) by id."""
    columns = ", ".join((*_LASTING, *_LATER))
    rows = connection.execute(
        f"SELECT {columns} FROM {TABLE} WHERE typeof(id) = 'integer' "  # noqa: S608 (constants)
        "ORDER BY id"
    )
    for row in rows:
        lasting, later = row[: len(_LASTING)], row[len(_LASTING) :]
        yield row[0], hashlib.sha256(repr(lasting).encode()).digest(), hashlib.sha256(repr(later).encode()).digest()


def _in_words(error: sqlite3.Error | OSError) -> str:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    text = shown(error.strerror if isinstance(error, OSError) and error.strerror else str(error))
    return {
        sqlite3.SQLITE_BUSY: f"a writer holds it ({text})",
        sqlite3.SQLITE_LOCKED: f"a writer holds it ({text})",
        sqlite3.SQLITE_CORRUPT: f"it is damaged ({text})",
        sqlite3.SQLITE_NOTADB: f"it is damaged ({text})",
        sqlite3.SQLITE_READONLY: f"a writer died and left a journal that must be rolled back first ({text})",
        sqlite3.SQLITE_INTERRUPT: "reading it takes too long",
    }.get(code, text)
