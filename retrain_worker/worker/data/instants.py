"""Timestamps in whatever notation they come, as int64 microseconds since the epoch, UTC.

Naive text is UTC, also with the word UTC or GMT after it. Numbers are seconds since the epoch, or milli-, micro-,
nanoseconds by their size. The two notations that SQLAlchemy and SQLite write are parsed by column; other texts go
through datetime.fromisoformat one by one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
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
#: the two common notations; the format alone would take a space for a digit, and a 60th second
_COMMON = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{6})?$"
_FORMAT, _WHOLE_SECONDS = "%Y-%m-%d %H:%M:%S.%6f", len("2025-12-09 03:14:40")
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
    return pl.Series(map(instant_of, column), dtype=pl.Int64)


def _parse_texts(column: pl.Series) -> pl.Series:
    text = pl.col(column.name)
    padded = pl.when(text.str.len_bytes() == _WHOLE_SECONDS).then(text + ".000000").otherwise(text)
    parsed = padded.str.to_datetime(_FORMAT, time_unit="us", strict=False, cache=False).to_physical()
    found = column.to_frame().select(pl.when(text.str.contains(_COMMON)).then(parsed)).to_series()
    if found.null_count() == column.null_count():
        return found
    others = column.filter(found.is_null()).drop_nulls().unique()
    if others.str.contains(_RENDERED_REAL).any():
        raise DigitsLostError
    own = {each: instant_of(each) for each in others}
    return found.fill_null(column.replace_strict(own, default=None, return_dtype=pl.Int64))


def instant_of(value: Any) -> int | None:
    """Microseconds since the epoch of a cell of any type; None where it is missing or no instant."""
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
    text = text.removesuffix(" UTC").removesuffix(" GMT")
    try:
        if not text.isdigit() or len(text) == _DATE_DIGITS:
            return datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        pass
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return None
