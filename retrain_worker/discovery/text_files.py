"""Describes CSV and JSON lines files by their two ends and the number of their lines, in bounded memory."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.discovery.file_classification import delimiter_of, is_candle_header, is_kline
from retrain_worker.discovery.proof_pack import FileFacts, Observations, TextTable
from retrain_worker.domain.printable import printable

#: lines of larger files are not counted
MAX_COUNTED_BYTES = 1 << 30
MAX_SHOWN_NAMES = 40
_END_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_KLINE_COLUMNS = ("open_time", "open", "high", "low", "close", "volume")
#: columns and keys that hold a time, in order of preference
_TIME_NAMES = (
    "timestamp",
    "open_time",
    "opentime",
    "open time",
    "time",
    "datetime",
    "date",
    "ts",
    "created_at",
    "close_time",
)
#: a number of seconds, milliseconds, microseconds, nanoseconds since 1970 that falls in this century
_UNITS = ((1e9, 4.1e9, 1.0), (1e12, 4.1e12, 1e3), (1e15, 4.1e15, 1e6), (1e18, 4.1e18, 1e9))


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """The first two lines, the last line, and the number of lines (blank ones too); None if not counted."""

    first: str
    second: str
    last: str
    lines: int | None


def csv_file(path: Path, facts: FileFacts) -> TextTable:
    """Columns, rows, and the times of the first and the last row. Raises OSError."""
    ends = _ends_of(path)
    delimiter = delimiter_of(ends.first)
    header, second, last = (_cells(line, delimiter) for line in (ends.first, ends.second, ends.last))
    has_header = not is_kline(header)
    columns = header if has_header else [*_KLINE_COLUMNS, *(f"column_{i}" for i in range(7, len(header) + 1))]
    first = second if has_header else header
    index = _time_index(columns, first)
    return TextTable(
        file=facts,
        columns=tuple(printable(name) for name in columns[:MAX_SHOWN_NAMES]),
        rows=None if ends.lines is None else max(ends.lines - has_header, 0),
        is_candles=is_candle_header(columns),
        first_at=_instant_at(first, index),
        last_at=_instant_at(last, index),
    )


def observations(path: Path, facts: FileFacts) -> Observations:
    """Lines, the keys of the first, and the times of the first and the last. Raises OSError."""
    ends = _ends_of(path)
    first, last = json_object(ends.first), json_object(ends.last)
    key = next((name for name in first if name.lower() in _TIME_NAMES), "")
    keys = tuple(printable(name) for name in list(first)[:MAX_SHOWN_NAMES])
    return Observations(
        file=facts, lines=ends.lines, keys=keys, first_at=instant_of(first.get(key)), last_at=instant_of(last.get(key))
    )


def json_object(text: str) -> dict[str, object]:
    """The JSON object in `text`; an empty one where there is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def instant_of(value: object) -> datetime | None:
    """The instant in a cell: ISO 8601 (UTC without a zone) or a number since 1970."""
    text = str(value).strip().strip('"')
    try:
        number = float(text)
    except ValueError:
        try:
            found = datetime.fromisoformat(text)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):  # the latter: the first hours of the year 1
            return None
    for low, high, unit in _UNITS:
        if low <= number < high:
            return datetime.fromtimestamp(number / unit, UTC)
    return None


def _ends_of(path: Path) -> _Ends:
    with path.open("rb") as file:
        head = file.read(_END_BYTES)
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_BYTES))
        tail = file.read(_END_BYTES)
    first, second, *_ = [*head.decode("utf-8-sig", "replace").splitlines(), "", ""]
    last = next((line for line in reversed(tail.decode("utf-8", "replace").splitlines()) if line.strip()), "")
    return _Ends(first=first, second=second, last=last, lines=_num_lines(path) if size <= MAX_COUNTED_BYTES else None)


def _num_lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _time_index(columns: list[str], cells: list[str]) -> int | None:
    lower = [name.strip().lower() for name in columns]
    named = [lower.index(name) for name in _TIME_NAMES if name in lower]
    return next((i for i in (*named, 0) if _instant_at(cells, i)), None)


def _instant_at(cells: list[str], index: int | None) -> datetime | None:
    return instant_of(cells[index]) if index is not None and index < len(cells) else None
