"""Columns of few distinct values: each value once, and for every row the place of its value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]


class CodeBook(dict[Any, int]):
    """Value -> its code, asked of `code` when the value is first seen."""

    def __init__(self, code: Callable[[Any], int]) -> None:
        super().__init__()
        self._code = code

    def __missing__(self, value: Any) -> int:
        self[value] = code = self._code(value)
        return code


class CodedCells(Sequence[Any]):
    """A column in this form. `codes`: int32[n], places in `distinct`, which may name a value twice."""

    def __init__(self, distinct: Sequence[Any], codes: Codes) -> None:
        self.distinct = distinct
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Any]:
        return map(self.distinct.__getitem__, self.codes.tolist())

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return CodedCells(self.distinct, self.codes[place])
        return self.distinct[self.codes[place]]


def codes_of(values: Sequence[Any], code: Callable[[Any], int]) -> Codes:
    """int32[n]: `code` of each value, asked once for each distinct one."""
    if isinstance(values, CodedCells):
        codes: Codes = np.array([code(value) for value in values.distinct], dtype=np.int32)[values.codes]
        return codes
    return np.fromiter(map(CodeBook(code).__getitem__, values), dtype=np.int32, count=len(values))


def coded_rows(keys: Sequence[Any], cells_of: Callable[[Any], Sequence[Any]]) -> list[CodedCells]:
    """The columns of rows that are given as keys: `cells_of` tells the cells of a key."""
    rows: list[Sequence[Any]] = []

    def new_code(key: Any) -> int:
        rows.append(cells_of(key))
        return len(rows) - 1

    codes = codes_of(keys, new_code)
    return [CodedCells(distinct, codes) for distinct in zip(*rows, strict=True)]
