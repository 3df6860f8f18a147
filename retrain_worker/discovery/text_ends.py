"""Reads the two ends of a text file and counts its lines, in bounded memory; finds instants in what stands there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

#: beyond it lines are not counted
MAX_COUNTED_BYTES = 2 << 30
_END_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
#: columns and keys that say when, in order of preference
TIME_NAMES = (
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
class Ends:
    """The first two lines, the last line, and how many lines there are (blank ones too); None if not counted."""

    first: str
    second: str
    last: str
    lines: int | None


def ends_of(path: Path) -> Ends:
    """The ends of the text file `path`. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_END_BYTES)
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_BYTES))
        tail = file.read(_END_BYTES)
        first, second, *_ = [*head.decode("utf-8-sig", "replace").splitlines(), "", ""]
        last = next((line for line in reversed(tail.decode("utf-8", "replace").splitlines()) if line.strip()), "")
        return Ends(first=first, second=second, last=last, lines=_lines(path) if size <= MAX_COUNTED_BYTES else None)


def instant_of(value: object) -> datetime | None:
    """The instant that a cell stands for: ISO 8601 (UTC without a zone) or a number since 1970."""
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


def _lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")
