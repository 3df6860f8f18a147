"""One `features` cell with its `feature_names` cell: the named numbers in it, or the reason why there are none."""

from __future__ import annotations

import json
import math
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

#: the names of a vector in its own order, or the width of an array without names
Order = tuple[str, ...] | int


class Reason(IntEnum):
    """Why a row's features cannot be used. The words are stable: they are names in events and reports."""

    FINE = 0
    #: no features at all: NULL, or JSON null
    FEATURES_NULL = 1
    #: not a JSON array or object
    FEATURES_NOT_JSON = 2
    #: an array or object in the place of a number
    FEATURES_NESTED = 3
    #: as many values as names, or as the other rows without names, it has not
    FEATURES_WRONG_LENGTH = 4
    #: one of the names that are trained on is not there
    FEATURES_MISSING_NAME = 5
    #: NaN, an infinity, or more than a float32 holds
    FEATURES_NOT_FINITE = 6
    #: null, true, false, or text that is no number
    FEATURES_NOT_NUMERIC = 7
    #: feature_names is not a JSON array of distinct texts
    FEATURES_NAMES_UNREADABLE = 8
    #: an array without names, beside rows that do not agree on one order of names
    FEATURES_UNNAMED = 9
    #: so far beyond the other rows that it would decide the scale of its feature
    FEATURES_OUTLIER = 10

    @property
    def word(self) -> str:
        """`features_null` and so on."""
        return self.name.lower()


class Layout(NamedTuple):
    """What the values of a vector are called."""

    #: names in the order of the values, or the number of values without names
    order: Order
    #: the names that the row declares beside an object, where they are not the object's keys
    contradicted: tuple[str, ...] | None = None

    def lacking(self) -> set[str]:
        """The names that are declared and have no value."""
        return {*(self.contradicted or ())} - {*(self.order if isinstance(self.order, tuple) else ())}


class Decoded(NamedTuple):
    """One row's decoded cell. What is no number is NaN."""

    #: why there are no values; else the reason that holds if one of them is not finite
    reason: Reason
    layout: Layout | None = None
    values: list[float] | None = None
    #: whether a number was written as text
    is_converted: bool = False


def decode_cell(cell: str | None, names_cell: str | None, orders: dict[frozenset[str], tuple[str, ...]]) -> Decoded:
    """One row's features, or why there are none. `orders`: set of keys -> the order in which an object gives them."""
    if cell is None:
        return Decoded(Reason.FEATURES_NULL)
    try:
        found = _loads(cell)
    except (ValueError, RecursionError):
        return Decoded(Reason.FEATURES_NOT_JSON)
    if not isinstance(found, list | dict):
        return Decoded(Reason.FEATURES_NULL if found is None else Reason.FEATURES_NOT_JSON)
    keys, raw = None, found
    if isinstance(found, dict):
        keys = orders.setdefault(frozenset(found), tuple(found))
        raw = [found[key] for key in keys]
    try:
        layout = layout_of(keys, names_cell, width=len(raw))
    except ValueError:
        return Decoded(Reason.FEATURES_NAMES_UNREADABLE)
    if layout is None:
        is_nested = any(isinstance(value, list | dict) for value in raw)
        return Decoded(Reason.FEATURES_NESTED if is_nested else Reason.FEATURES_WRONG_LENGTH)
    numbers = [_number_of(value) for value in raw]
    return Decoded(
        next((number for number in numbers if isinstance(number, Reason)), Reason.FEATURES_NOT_FINITE),
        layout,
        [number if isinstance(number, float) else math.nan for number in numbers],
        any(isinstance(value, str) and isinstance(number, float) for value, number in zip(raw, numbers, strict=True)),
    )


def layout_of(keys: tuple[str, ...] | None, names_cell: str | None, *, width: int) -> Layout | None:
    """The layout of `width` values, `keys` those of an object; None where there are not as many names as values.

    Raises ValueError where an array's names cannot be read.
    """
    try:
        names = declared_names(names_cell)
    except ValueError:
        if keys is None:
            raise
        names = None
    order: Order = keys or names or width
    if not width or width != (len(order) if isinstance(order, tuple) else order):
        return None
    return Layout(order, names if keys and names and {*names} != {*keys} else None)


@lru_cache(maxsize=4096)
def declared_names(names_cell: str | None) -> tuple[str, ...] | None:
    """The names that a feature_names cell declares, or None when it declares none. Raises ValueError otherwise."""
    if not names_cell:
        return None
    names = orjson.loads(names_cell)
    if names is None or names == []:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError("not an array of distinct texts")
    return tuple(names)


def _loads(text: str) -> Any:
    """JSON, with NaN, Infinity and numbers beyond float64 read as what they are, so that the reason can be reported."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        found = json.loads(text, parse_int=float)
    if isinstance(found, dict):
        "".join(found).encode()  # json lets half a surrogate pair (\ud800) through, which no column can be called
    return found


def _number_of(value: Any) -> float | Reason:
    if isinstance(value, list | dict):
        return Reason.FEATURES_NESTED
    if isinstance(value, bool) or value is None:
        return Reason.FEATURES_NOT_NUMERIC
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return Reason.FEATURES_NOT_NUMERIC
    # float() also takes "1_000" and digits of other scripts: measurements are not written so
    is_plain = not isinstance(value, str) or (value.isascii() and "_" not in value)
    return number if is_plain else Reason.FEATURES_NOT_NUMERIC
