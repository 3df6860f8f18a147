"""Timestamps in whatever notation they come, as int64 microseconds since the epoch, UTC.

Naive text is UTC (DESIGN 4.1). Numbers are seconds since the epoch, or milli-, micro-, nanoseconds by their size. The
two notations that SQLAlchemy and SQLite write are parsed as one matrix of digits; the rest goes through datetime.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

MICROSECONDS = 1_000_000
#: an unreadable instant; never a real one
UNREADABLE = np.iinfo(np.int64).min
#: the instant of what has not happened
NEVER = np.iinfo(np.int64).max

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: text length -> whether it carries a fraction of six digits: `YYYY-MM-DD HH:MM:SS` and `...SS.ffffff`
_FAST_LENGTHS = {19: False, 26: True}
_FAST_MINIMUM = 16  # fewer values than this are not worth a matrix
#: first magnitude that cannot be seconds (year 5138), milliseconds, microseconds; and the divisor to seconds
_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))


def to_microseconds(instant: datetime) -> int:
    """Microseconds since the epoch; a naive datetime is UTC."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def to_datetime(microseconds: int) -> datetime:
    """The aware UTC datetime. Raises OverflowError outside the years 1..9999."""
    return _EPOCH + timedelta(microseconds=int(microseconds))


def in_words(microseconds: int) -> str:
    """`2025-12-09 03:14:40 UTC`, as a sentence shows it."""
    return f"{to_datetime(microseconds):%Y-%m-%d %H:%M:%S} UTC"


def parse_instants(values: Sequence[Any]) -> Int64s:
    """int64[n] microseconds since the epoch; UNREADABLE where a value is missing or is no instant."""
    try:
        lengths = set(map(len, values))
    except TypeError:  # a number, a datetime, or nothing among them
        lengths = set()
    if len(lengths) == 1 and lengths <= _FAST_LENGTHS.keys() and len(values) >= _FAST_MINIMUM:
        try:
            return _parse_texts(values, has_fraction=_FAST_LENGTHS[lengths.pop()])
        except TypeError:  # bytes among them
            return _parse_mixed(values)
    if set(map(type, values)) == {float}:
        return _parse_seconds(np.array(values, dtype=np.float64))
    return _parse_mixed(values)


def _parse_mixed(values: Sequence[Any]) -> Int64s:
    """Groups of the fast notations as matrices, the rest one by one."""
    parsed = np.full(len(values), UNREADABLE, dtype=np.int64)
    fast: dict[int, list[int]] = {length: [] for length in _FAST_LENGTHS}
    for row, value in enumerate(values):
        if type(value) is str and len(value) in fast:
            fast[len(value)].append(row)
        elif value is not None:
            parsed[row] = _parse_one(value)
    for length, rows in fast.items():
        if rows:
            parsed[rows] = _parse_texts([values[row] for row in rows], has_fraction=_FAST_LENGTHS[length])
    return parsed


def _parse_texts(texts: Sequence[str], *, has_fraction: bool) -> Int64s:
    """Texts of one of the two fast lengths, as a matrix of digits; what does not fit is parsed one by one."""
    width = 26 if has_fraction else 19
    try:
        characters = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8).reshape(len(texts), width)
    except UnicodeEncodeError:
        return np.array([_parse_one(each) for each in texts], dtype=np.int64)
    digits = np.ascontiguousarray(characters.T) - np.uint8(ord("0"))  # one row per place
    marks = {4: "-", 7: "-", 10: " ", 13: ":", 16: ":"} | ({19: "."} if has_fraction else {})
    fits = np.ones(len(texts), dtype=bool)
    for place in range(width):
        if place in marks:
            fits &= digits[place] == (ord(marks[place]) - ord("0")) % 256
        else:
            fits &= digits[place] < 10

    def number(start: int, stop: int) -> Int64s:
        total: Int64s = digits[start].astype(np.int64)
        for place in range(start + 1, stop):
            total *= 10
            total += digits[place]
        return total

    year, month, day = number(0, 4), number(5, 7), number(8, 10)
    hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
    fits &= (year >= 1) & (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    months = ((np.where(fits, year, 1970) - 1970) * 12 + np.where(fits, month, 1) - 1).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    next_first = (months + 1).astype("datetime64[D]").astype(np.int64)
    fits &= (day >= 1) & (day <= next_first - first)
    seconds = (((first + day - 1) * 24 + hour) * 60 + minute) * 60 + second
    parsed = seconds * MICROSECONDS + (number(20, 26) if has_fraction else 0)
    for row in np.flatnonzero(~fits).tolist():
        parsed[row] = _parse_one(texts[row])
    return parsed


def _parse_seconds(numbers: npt.NDArray[np.float64]) -> Int64s:
    """Numbers since the epoch in the unit that their size tells."""
    size = np.abs(numbers)
    scale = np.select([size < limit for limit, _ in _UNITS], [MICROSECONDS / unit for _, unit in _UNITS], np.nan)
    with np.errstate(invalid="ignore"):
        microseconds = np.rint(numbers * scale)
    parsed: Int64s = np.where(np.isfinite(microseconds), microseconds, UNREADABLE).astype(np.int64)
    return parsed


def _parse_one(value: Any) -> int:
    """Microseconds since the epoch, or UNREADABLE."""
    if isinstance(value, datetime):
        return to_microseconds(value)
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    if isinstance(value, str):
        try:
            return to_microseconds(datetime.fromisoformat(value.strip()))
        except (ValueError, OverflowError):
            value = _as_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNREADABLE
    return _exact_seconds(value)


def _as_number(text: str) -> float | None:
    try:
        return float(text) if text.strip().isascii() and "_" not in text else None
    except ValueError:
        return None


def _exact_seconds(number: float) -> int:
    """Like _parse_seconds, but exact for integers of every unit."""
    for limit, unit in _UNITS:
        if abs(number) < limit:
            return number * MICROSECONDS // unit if isinstance(number, int) else round(number * MICROSECONDS / unit)
    return UNREADABLE
