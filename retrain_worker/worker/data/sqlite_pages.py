"""The table's rows in short pages, newest rowid first, so that no writer can feel the reading.

In rollback-journal mode a reader's SHARED lock keeps a writer from committing, so a read transaction lasts one page
(about PAGE_SECONDS) and ends before the page is decoded. Pages follow the rowid downwards, so each row is read at most
once and as one commit left it. What changes between two pages is not torn, only early or late: a row inserted above the
cursor, or an outcome filled in after its page, is found by the next run, because the watermark is made of the rows
that were read (fingerprints.py), not of a position. Rows are independent samples; nothing here needs two rows from
the same instant. In WAL mode readers block nobody, and short transactions let checkpoints finish.

On a busy host the kernel may take the processor away in the middle of a page. Who has just slept is left alone for a
while: so where that has happened, a short pause comes before the lock.

A Python object for every cell is most of what reading costs. So where a page looks like the one before it, its long
texts come as one text each (JoinedTexts), and the names of the features, being the same in every row, as one object.
Where anything in the page is unusual, it is read again, plainly, in the same transaction.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from retrain_worker.worker.data.coded_cells import coded_rows
from retrain_worker.worker.data.joined_texts import JoinedTexts
from retrain_worker.worker.data.rows import OUTCOME_TIME, OUTCOME_TIME_COLUMNS, TABLE, RawRows

#: how long one page may hold a read lock, about
PAGE_SECONDS = 0.005
#: read plainly, to learn the form that the others are expected to have
_FIRST_PAGE_ROWS = 200
_MIN_PAGE_ROWS = 250
_MAX_PAGE_ROWS = 20_000
_TURNED_ROWS = 100
#: a page that lasted so much longer than it worked was interrupted, its lock held
_INTERRUPTED_SECONDS = 0.001
#: after one such, so many pages begin with a pause of so long
_PAUSED_PAGES = 100
_PAUSE_SECONDS = 0.0003
_MAX_ROWID = 2**63 - 1

_OUTCOME_TIME = f"COALESCE({', '.join(OUTCOME_TIME_COLUMNS)})"
_COLUMNS = tuple(_OUTCOME_TIME if name == OUTCOME_TIME else name for name in RawRows._fields)
#: the columns that come joined
_JOINED = ("timestamp", OUTCOME_TIME, "features")
#: columns of few values: they come as one JSON array a row, which is one object instead of five
_KEY = ("symbol", "predicted_action", "execution_side", "outcome_known", "target_class")
#: how long a position was held tells when its outcome was known where no instant does, and is not read elsewhere
_HELD = "hold_duration_seconds"
_SINGLE = tuple(name for name in RawRows._fields if name not in (*_JOINED, *_KEY, "feature_names", _HELD))
_CELL_SEAM = ",\n"
#: a rowid search walks upwards, and `NOT INDEXED` leaves no other way: so every column has its texts in that order.
#: The seams are literals: SQLite works out anything else anew for each row
_TEXTS = (
    "SELECT MIN(feature_names IS ?1 COLLATE BINARY), "  # noqa: S608 (constants)
    f"COUNT(CASE WHEN {' AND '.join(f'{name} IS NULL' for name in OUTCOME_TIME_COLUMNS)} THEN {_HELD} END), "
    "COUNT(timestamp), COUNT(features), "
    f"GROUP_CONCAT(timestamp, '\n'), GROUP_CONCAT(COALESCE({', '.join(OUTCOME_TIME_COLUMNS)}, ?2), '\n'), "
    f"GROUP_CONCAT(features, '{_CELL_SEAM}') FROM {TABLE} NOT INDEXED WHERE rowid BETWEEN ?3 AND ?4"
)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What every row of a page has in common, and the next page is expected to have."""

    names: Any
    #: characters of timestamp and of outcome_time
    width: int


def read_pages(connection: sqlite3.Connection) -> Iterator[RawRows]:
    """Every row of the table. The connection must be in autocommit mode. Raises sqlite3.Error."""
    if not _has_rowid(connection):
        yield from _read_at_once(connection)
        return
    pages = _Pages(connection)
    size, pauses = _FIRST_PAGE_ROWS, 0
    while True:
        if pauses:
            time.sleep(_PAUSE_SECONDS)
            pauses -= 1
        started, worked = time.perf_counter(), time.thread_time()
        page = pages.next(size)
        seconds = max(time.perf_counter() - started, 1e-6)
        if seconds - (time.thread_time() - worked) > _INTERRUPTED_SECONDS:
            pauses = _PAUSED_PAGES
        if page is not None:
            yield page
        if page is None or len(page.id) < size:
            return
        size = int(min(_MAX_PAGE_ROWS, 8 * size, max(_MIN_PAGE_ROWS, size * PAGE_SECONDS / seconds)))


class _Pages:
    """A cursor that walks down the rowids."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._below = _MAX_ROWID
        self._form: _Form | None = None
        #: the id is the rowid: then it need not be read twice
        self._rowid = () if _id_is_rowid(connection) else ("rowid",)

    def next(self, size: int) -> RawRows | None:
        """The next `size` rows, or fewer at the end, or None; when this returns, the read lock is gone."""
        with _transaction(self._connection):
            return self._joined(size) or self._plain(size)

    def _plain(self, size: int) -> RawRows | None:
        try:
            values = self._rows(_COLUMNS, size)
        except sqlite3.OperationalError as error:
            if "decode to UTF-8" not in str(error):
                raise
            with _any_text(self._connection):
                values = self._rows(_COLUMNS, size)
        rowids = self._rowids(values)
        if not rowids:
            return None
        page = RawRows(*values)
        self._form = _form_of(page)
        self._below = rowids[-1] - 1
        return page

    def _joined(self, size: int) -> RawRows | None:
        """The next rows with long texts joined, or None when they have not the form that is expected."""
        if self._form is None:
            return None
        try:
            *values, keys = self._rows((*_SINGLE, f"JSON_ARRAY({', '.join(_KEY)})"), size)
            rowids = self._rowids(values)
            joined = self._texts(self._form, rowids) if rowids else None
            # the texts are joined upwards
            key = coded_rows(keys[::-1], _cells_of_key)
        except (sqlite3.OperationalError, sqlite3.DataError, ValueError):
            # not UTF-8, a BLOB, longer than SQLite lets a text be, a real number where none belongs
            return None
        if joined is None:
            return None
        self._below = rowids[-1] - 1
        single = {name: column[::-1] for name, column in zip(_SINGLE, values, strict=True)}
        same = {"feature_names": [self._form.names] * len(rowids), _HELD: [None] * len(rowids)}
        return RawRows(**single, **joined, **dict(zip(_KEY, key, strict=True)), **same)

    def _rows(self, columns: Sequence[str], size: int) -> list[list[Any]]:
        statement = (
            f"SELECT {', '.join((*self._rowid, *columns))} FROM {TABLE} "  # noqa: S608 (constants)
            "WHERE rowid <= ? ORDER BY rowid DESC LIMIT ?"
        )
        return _columns(self._connection.execute(statement, (self._below, size)))

    def _rowids(self, values: list[list[Any]]) -> list[int]:
        """The first column; taken out of `values` where it is not also the id. Raises sqlite3.DatabaseError."""
        rowids = values.pop(0) if self._rowid else values[0]
        if (np.diff(np.array(rowids, dtype=np.int64)) >= 0).any():
            damage = sqlite3.DatabaseError("rows are out of order")
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage
        return rowids

    def _texts(self, form: _Form, rowids: Sequence[int]) -> dict[str, JoinedTexts] | None:
        """The joined columns of these rows, or None.

        Counts tell NULLs, the number of seams tells newlines inside a text. An instant that is missing comes as blanks,
        which are no instant either; two hyphens where a date has them tell texts from numbers. A features cell
        that is no text is judged like the text of it (feature_cells.py).
        """
        parameters = (form.names, " " * form.width, rowids[-1], rowids[0])
        found = self._connection.execute(_TEXTS, parameters).fetchone()
        is_same, only_held, *counts, timestamps, outcome_times, cells = found
        if not is_same or only_held or set(counts) != {len(rowids)}:
            return None
        instants = [JoinedTexts(texts, seam="\n") for texts in (timestamps, outcome_times)]
        features = JoinedTexts(cells, seam=_CELL_SEAM)
        if {len(column) for column in (*instants, features)} != {len(rowids)}:
            return None
        if not all(_are_dates(texts, form.width) for texts in instants):
            return None
        return dict(zip(_JOINED, (*instants, features), strict=True))


def _form_of(page: RawRows) -> _Form | None:
    """The form of a page that was read plainly."""
    try:
        widths = {len(value) for column in (page.timestamp, page.outcome_time) for value in column if value is not None}
    except TypeError:
        return None
    names, first = page.feature_names[0], page.timestamp[0]
    if len(widths) != 1 or page.feature_names.count(names) != len(page.feature_names):
        return None
    if not isinstance(first, str) or first[4:8:3] != "--":
        return None
    return _Form(names=names, width=widths.pop())


@lru_cache(maxsize=4096)
def _cells_of_key(key: str) -> tuple[Any, ...]:
    """The cells of _KEY. Raises ValueError where JSON may have rounded one."""
    cells = tuple(orjson.loads(key))
    if float in map(type, cells):
        raise ValueError("a real number")
    return cells


def _are_dates(texts: JoinedTexts, width: int) -> bool:
    """Whether all have this width, and are blanks or have the hyphens of a date, as no number has."""
    step = width + 1
    return texts.width == width and not any(texts.text[place::step].strip("- ") for place in (4, 7))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read inside is as one commit left it."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


def _has_rowid(connection: sqlite3.Connection) -> bool:
    """False for a view and for a WITHOUT ROWID table."""
    kinds = connection.execute(
        "SELECT type, wr FROM pragma_table_list WHERE name = ? COLLATE NOCASE AND schema = 'main'", (TABLE,)
    )
    return bool(kinds.fetchone() == ("table", 0))


def _id_is_rowid(connection: sqlite3.Connection) -> bool:
    """Whether `id` is the primary key and needs no index of its own, https://www.sqlite.org/lang_createtable.html."""
    ((keys, indexes),) = connection.execute(
        "SELECT (SELECT GROUP_CONCAT(LOWER(name)) FROM pragma_table_info(?1) WHERE pk), "
        "(SELECT COUNT(*) FROM pragma_index_list(?1) WHERE origin = 'pk')",
        (TABLE,),
    )
    return bool(keys == "id" and not indexes)


def _read_at_once(connection: sqlite3.Connection) -> Iterator[RawRows]:
    connection.text_factory = _lenient_text
    cursor = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM {TABLE}")  # noqa: S608 (constants)
    while rows := cursor.fetchmany(_MAX_PAGE_ROWS):
        yield RawRows(*zip(*rows, strict=True))


def _columns(cursor: sqlite3.Cursor) -> list[list[Any]]:
    """Turned in small pieces, while they are in the processor's cache: that makes it almost free."""
    columns: list[list[Any]] = [[] for _ in cursor.description]
    while rows := cursor.fetchmany(_TURNED_ROWS):
        for column, values in zip(columns, zip(*rows, strict=True), strict=True):
            column.extend(values)
    return columns


@contextmanager
def _any_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Inside, text need not be UTF-8."""
    connection.text_factory = _lenient_text
    try:
        yield
    finally:
        connection.text_factory = str


def _lenient_text(raw: bytes) -> str:
    """Text that is not UTF-8, distinct for distinct bytes."""
    return raw.decode("utf-8", errors="backslashreplace")
