"""Columns and cells of a driver as a page of PAGE_SCHEMA.

Most pages hold one type in each column and are converted by column. In SQLite a column may hold anything, and in a
PostgreSQL database without encoding a text any bytes: then the cells of the page are converted one by one, so that one
odd cell costs no other its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from retrain_worker.worker.data.instants import DigitsLostError, instant_of, parse_column
from retrain_worker.worker.data.outcomes import YES
from retrain_worker.worker.data.page import INSTANTS, PAGE_SCHEMA


class OddPageError(ValueError):
    """A column holds what its type is not."""


def page_of_columns(found: pl.DataFrame) -> pl.DataFrame:
    """The page of columns that hold one type each. Raises OddPageError where one does not."""
    nulls = found.null_count().row(0, named=True)
    try:
        page = found.select(
            _typed(name, found.schema[name], is_empty=nulls[name] == len(found)) for name in PAGE_SCHEMA
        )
        return page.with_columns(parse_column(page[name]).alias(name) for name in INSTANTS)
    except (pl.exceptions.ComputeError, DigitsLostError) as error:
        raise OddPageError from error


def _typed(name: str, found: pl.DataType, *, is_empty: bool) -> pl.Expr:
    kind, column = PAGE_SCHEMA[name], pl.col(name)
    if is_empty:
        return pl.repeat(None, pl.len(), dtype=kind).alias(name)
    if found == pl.String:
        column = column.cast(pl.Binary).cast(pl.String)  # the bytes of a text come unchecked
    if name in INSTANTS and found != pl.Binary:
        return column
    if kind == pl.Float64 and found == pl.Int64:
        return column.cast(pl.Float64)
    if kind == pl.Boolean and found in (pl.Int64, pl.Float64):
        return column == 1
    if found != kind:
        raise OddPageError
    return column


def page_of_cells(columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """The page of cells that are None, int, float, bytes, or str."""
    return pl.DataFrame(
        [
            pl.Series(name, map(_BY_NAME.get(name) or _BY_KIND[kind], columns[name]), dtype=kind)
            for name, kind in PAGE_SCHEMA.items()
        ]
    )


def text_of(raw: bytes, encoding: str = "utf-8") -> str:
    """The text; what the encoding does not allow is escaped, so that other bytes stay another text."""
    return raw.decode(encoding, errors="backslashreplace")


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_yes(cell: Any) -> bool:
    return cell.strip().lower() in YES if isinstance(cell, str) else cell == 1


def _integer(cell: Any) -> int | None:
    """The integer, also where a column of another type has made a real number or a text of it."""
    try:
        number = int(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    is_same = number == cell if isinstance(cell, int | float) else str(number) == cell
    return number if is_same and -(2**63) <= number < 2**63 else None


def _only(kind: type) -> Callable[[Any], Any]:
    return lambda cell: cell if isinstance(cell, kind) else None


def _json(cell: Any) -> str | None:
    return text_of(cell) if isinstance(cell, bytes) else _text(cell)


def _text(cell: Any) -> str | None:
    return cell if cell is None or isinstance(cell, str) else repr(cell)


_BY_KIND: dict[pl.DataType, Callable[[Any], Any]] = {
    pl.Int64(): _integer,
    pl.Float64(): _number,
    pl.Boolean(): _is_yes,
    pl.String(): _text,
}
#: a BLOB may hold the JSON that the decoder expects
_BY_NAME = dict.fromkeys(INSTANTS, instant_of) | {"symbol": _only(str), "features": _json, "feature_names": _json}
