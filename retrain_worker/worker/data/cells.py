"""Columns and cells of a driver as a page of PAGE_SCHEMA.

Most pages hold one type in each column and are converted by column. In SQLite a column may hold anything, and in a
PostgreSQL database without encoding a text any bytes: then the cells of the page are converted one by one, so that one
odd cell costs no other its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from retrain_worker.worker.data.instants import DigitsLostError, parse_cells, parse_column
from retrain_worker.worker.data.outcomes import YES
from retrain_worker.worker.data.page import INSTANTS, PAGE_SCHEMA

#: a BLOB in these columns may hold the text that the decoder expects
_JSON = ("features", "feature_names")
_INTEGERS_AND_REALS = (pl.Int64, pl.Float64)


class OddPageError(ValueError):
    """A column holds what its type is not."""


def column_of_one_type(name: str, column: pl.Series) -> pl.Series:
    """The column under its type of PAGE_SCHEMA. Raises OddPageError."""
    kind = PAGE_SCHEMA[name]
    if column.null_count() == len(column):
        return pl.Series(name, [None], dtype=kind).new_from_index(0, len(column))
    try:
        if column.dtype == pl.String:  # the bytes of a text come unchecked
            column = column.cast(pl.Binary).cast(pl.String)
        if name in INSTANTS and column.dtype != pl.Binary:
            column = parse_column(column)
    except (pl.exceptions.ComputeError, DigitsLostError) as error:
        raise OddPageError from error
    if kind == pl.Float64 and column.dtype == pl.Int64:
        column = column.cast(pl.Float64)
    elif kind == pl.Boolean and column.dtype in _INTEGERS_AND_REALS:
        column = column == 1
    if column.dtype != kind:
        raise OddPageError
    return column.alias(name)


def page_of_cells(columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """The page of cells that are None, int, float, bytes, or str."""
    return pl.DataFrame([_column_of_cells(name, columns[name]) for name in PAGE_SCHEMA])


def text_of(raw: bytes, encoding: str = "utf-8") -> str:
    """The text; what the encoding does not allow is escaped, so that other bytes stay another text."""
    return raw.decode(encoding, errors="backslashreplace")


def _column_of_cells(name: str, cells: Sequence[Any]) -> pl.Series:
    if name in INSTANTS:
        return parse_cells(cells).alias(name)
    convert = {pl.Int64(): _integer, pl.Float64(): _number, pl.Boolean(): _is_yes, pl.String(): _text}[
        PAGE_SCHEMA[name]
    ]
    if name == "symbol":
        convert = _name
    elif name in _JSON:
        convert = _json
    return pl.Series(name, map(convert, cells), dtype=PAGE_SCHEMA[name])


def _integer(cell: Any) -> int | None:
    return cell if isinstance(cell, int) else None


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_yes(cell: Any) -> bool:
    return cell.strip().lower() in YES if isinstance(cell, str) else cell == 1


def _name(cell: Any) -> str | None:
    return cell if isinstance(cell, str) else None


def _json(cell: Any) -> str | None:
    return text_of(cell) if isinstance(cell, bytes) else _text(cell)


def _text(cell: Any) -> str | None:
    return cell if cell is None or isinstance(cell, str) else repr(cell)
