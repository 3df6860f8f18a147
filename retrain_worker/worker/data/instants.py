"""Timestamps in whatever notation they come, as int64 microseconds since the epoch, UTC.

Naive text is UTC (docs/contracts/input-table.md). Numbers are seconds since the epoch, or milli-, micro-, nanoseconds
by their size. The two notations that SQLAlchemy and SQLite write are parsed as one matrix of digits; the rest goes
through datetime.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from retrain_worker.worker.data.joined_texts import JoinedTexts

Int64s = npt.NDArray[np.int64]

MICROSECONDS = 1_000_000
#: an unreadable instant; never a real one
UNREADABLE = np.iinfo(np.int64).min
#: the instant of what has not happened
NEVER = np.iinfo(np.int64).max
#: how far ahead of our clock another host's may be
CLOCK_TOLERANCE = 86_400 * MICROSECONDS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PATTERN = b"0000-00-00 00:00:00.000000"
#: the first of every two digits that belong together
_TENS = (0, 2, 5, 8, 11, 14, 17, 20, 22, 24)
_WIDTH_WITH_FRACTION = len(_PATTERN)
#: `YYYY-MM-DD HH:MM:SS` and `...SS.ffffff`
_FAST_WIDTHS = frozenset({19, _WIDTH_WITH_FRACTION})
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
    if isinstance(values, JoinedTexts):
        width = values.width
        return _parse_lines(values.text, values, width) if width in _FAST_WIDTHS else _parse_mixed(values)
    try:
        widths = set(map(len, values))
    except TypeError:  # a number, a datetime, or nothing among them
        widths = set()
    if len(widths) == 1 and widths <= _FAST_WIDTHS and len(values) >= _FAST_MINIMUM:
        try:
            return _parse_lines("\n".join(values), values, widths.pop())
        except TypeError:  # bytes among them
            return _parse_mixed(values)
    if set(map(type, values)) == {float}:
        return _parse_seconds(np.array(values, dtype=np.float64))
    return _parse_mixed(values)


def _parse_mixed(values: Sequence[Any]) -> Int64s:
    """Groups of the fast notations as matrices, the rest one by one."""
    parsed = np.full(len(values), UNREADABLE, dtype=np.int64)
    fast: dict[int, list[int]] = {width: [] for width in _FAST_WIDTHS}
    for row, value in enumerate(values):
        if type(value) is str and len(value) in fast:
            fast[len(value)].append(row)
        elif value is not None:
            parsed[row] = _parse_one(value)
    for width, rows in fast.items():
        if rows:
            texts = [values[row] for row in rows]
            parsed[rows] = _parse_lines("\n".join(texts), texts, width)
    return parsed


def _parse_lines(lines: str, texts: Sequence[str], width: int) -> Int64s:
    """`texts` of one of the fast widths, joined by newlines, as a matrix of digits; what does not fit one by one."""
    try:
        characters = np.frombuffer(f"{lines}\n".encode("ascii"), dtype=np.uint8).reshape(len(texts), width + 1)
    except UnicodeEncodeError:
        return np.array([_parse_one(each) for each in texts], dtype=np.int64)
    pattern = np.frombuffer(_PATTERN[:width], dtype=np.uint8)[:, None]
    # one row per place; what is below its mark or `0` wraps round to a big number
    digits = np.ascontiguousarray(characters.T[:width]) - pattern
    highest = np.where(pattern == ord("0"), np.uint8(9), np.uint8(0))
    fits: npt.NDArray[np.bool_] = np.asarray((digits <= highest).all(axis=0), dtype=np.bool_)
    tens = list(_TENS if width == _WIDTH_WITH_FRACTION else _TENS[:7])
    pairs = (digits[tens] * np.uint8(10) + digits[[place + 1 for place in tens]]).astype(np.int64)
    century, year_of_century, month, day, hour, minute, second = pairs[:7]
    months = (century * 100 + year_of_century) * 12 + month - 1
    fits &= (months >= 12) & (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    months[~fits] = 12
    first_days = _first_days_of_months()
    first = first_days[months]
    fits &= (day >= 1) & (day <= first_days[months + 1] - first)
    parsed: Int64s = ((((first + day - 1) * 24 + hour) * 60 + minute) * 60 + second) * MICROSECONDS
    if width == _WIDTH_WITH_FRACTION:
        parsed += (pairs[7] * 100 + pairs[8]) * 100 + pairs[9]
    for row in np.flatnonzero(~fits).tolist():
        parsed[row] = _parse_one(texts[row])
    return parsed


@cache
def _first_days_of_months() -> Int64s:
    """int64[120,001]: days from the epoch to the first of month `year * 12 + month - 1`, from the year 0 to 10000."""
    return np.arange("0000-01", "10000-02", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int64)


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
