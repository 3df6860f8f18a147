"""Timestamps in whatever notation they come, as int64 microseconds since the epoch, UTC.

Naive text is UTC. Numbers are seconds since the epoch, or milli-, micro-, nanoseconds by their size. The two notations
that SQLAlchemy and SQLite write are parsed as one matrix of digits, which is five times as fast as a format string;
other texts go through datetime.fromisoformat one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

MICROSECONDS = 1_000_000
DAY = 86_400 * MICROSECONDS
#: the instant of what has not happened
NEVER = int(np.iinfo(np.int64).max)
#: how far ahead of this host's clock another host's may be
CLOCK_TOLERANCE = DAY

_DATE_DIGITS = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: the two common notations differ in the fraction
_COMMON = b"0000-00-00 00:00:00.000000"
_COMMON_WIDTHS = (19, 26)
#: the first of every two digits that belong together
_TENS = (0, 2, 5, 8, 11, 14, 17, 20, 22, 24)
#: an instant that cannot be read; never a real one
_UNREADABLE = np.iinfo(np.int64).min
#: a real number among texts, as the SQLite driver renders it, most of its digits lost
_RENDERED_REAL = r"^-?[0-9]\.[0-9]{6}e[+-][0-9]+$"
#: first magnitude that cannot be seconds (year 5138), milliseconds, microseconds, nanoseconds; the divisor to seconds
_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))


class DigitsLostError(ValueError):
    """The column mixes texts with real numbers, which the driver has rendered inexactly."""


def to_microseconds(instant: datetime) -> int:
    """Microseconds since the epoch; a naive datetime is UTC."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def to_datetime(microseconds: int) -> datetime:
    """The aware UTC datetime. Raises OverflowError outside the years 1..9999."""
    return _EPOCH + timedelta(microseconds=int(microseconds))


def in_words(microseconds: int) -> str:
    """`2025-12-09 03:14:40 UTC`, as a message shows it."""
    return f"{to_datetime(microseconds):%Y-%m-%d %H:%M:%S} UTC"


def parse_column(column: pl.Series) -> pl.Series:
    """Int64[n] microseconds since the epoch; null where a value is missing or is no instant.

    `column`: String, Int64, Float64 or Datetime. Raises DigitsLostError.
    """
    if isinstance(column.dtype, pl.Datetime):
        return column.cast(pl.Datetime("us")).cast(pl.Int64)
    if column.dtype == pl.String:
        return _parse_texts(column)
    return parse_cells(column.to_list())


def parse_cells(cells: Sequence[Any]) -> pl.Series:
    """Int64[n] as `parse_column`, of cells of any type."""
    return pl.Series(map(_parse_one, cells), dtype=pl.Int64)


def _parse_texts(column: pl.Series) -> pl.Series:
    found = np.full(len(column), _UNREADABLE, dtype=np.int64)
    widths = column.str.len_bytes().fill_null(0).to_numpy()
    for width in _COMMON_WIDTHS:
        rows = np.flatnonzero(widths == width)
        if len(rows):
            found[rows] = _of_digits(column if len(rows) == len(column) else column.gather(rows), width)
    is_other = (found == _UNREADABLE) & (widths > 0)
    if not is_other.any():
        return _with_nulls(found)
    others = column.filter(is_other)
    if others.str.contains(_RENDERED_REAL).any():
        raise DigitsLostError
    parsed = {text: _parse_one(text) for text in others.unique()}
    found[is_other] = [_UNREADABLE if (instant := parsed[text]) is None else instant for text in others]
    return _with_nulls(found)


def _with_nulls(instants: npt.NDArray[np.int64]) -> pl.Series:
    column = pl.Series(instants)
    return column.set(column == _UNREADABLE, None)


def _of_digits(texts: pl.Series, width: int) -> npt.NDArray[np.int64]:
    """int64[n] of texts of one of the common widths; _UNREADABLE where a text is not of that notation."""
    characters = np.frombuffer(texts.str.join("").item().encode(), dtype=np.uint8).reshape(len(texts), width)
    pattern = np.frombuffer(_COMMON[:width], dtype=np.uint8)[:, None]
    # one row per place; what is below its mark or `0` wraps round to a large number
    digits = np.ascontiguousarray(characters.T) - pattern
    highest = np.where(pattern == ord("0"), np.uint8(9), np.uint8(0))
    fits = (digits <= highest).all(axis=0)
    tens = [place for place in _TENS if place < width]
    pairs = (digits[tens] * np.uint8(10) + digits[[place + 1 for place in tens]]).astype(np.int64)
    century, year_of_century, month, day, hour, minute, second, *fraction = pairs
    months = (century * 100 + year_of_century) * 12 + month - 1
    fits &= (months >= 12) & (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    months[~fits] = 12
    first_days = _first_days_of_months()
    first = first_days[months]
    fits &= (day >= 1) & (day <= first_days[months + 1] - first)
    parsed: npt.NDArray[np.int64] = (((first + day - 1) * 24 + hour) * 60 + minute) * 60 + second
    parsed *= MICROSECONDS
    for place, hundreds in enumerate(fraction):
        parsed += hundreds * 100 ** (2 - place)
    parsed[~fits] = _UNREADABLE
    return parsed


@cache
def _first_days_of_months() -> npt.NDArray[np.int64]:
    """int64[120,001]: days from the epoch to the first of month `year * 12 + month - 1`, from the year 0 to 10000."""
    return np.arange("0000-01", "10000-02", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _parse_one(value: Any) -> int | None:
    """Microseconds since the epoch, or None."""
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    if isinstance(value, str):
        value = _instant_or_number(value.strip())
    if isinstance(value, datetime):
        return to_microseconds(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    for limit, unit in _UNITS:
        if abs(value) < limit:
            return value * MICROSECONDS // unit if isinstance(value, int) else round(value * MICROSECONDS / unit)
    return None


def _instant_or_number(text: str) -> datetime | int | float | None:
    """Digits alone are a number, although ISO 8601 would read some of them as a date; but eight are YYYYMMDD."""
    if not text.isascii() or "_" in text:
        return None
    try:
        if not text.isdigit() or len(text) == _DATE_DIGITS:
            return datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        pass
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return None
