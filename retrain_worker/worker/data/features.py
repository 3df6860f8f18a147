"""Feature cells (JSON arrays with their names, or JSON objects) as one float32 matrix, matched by name.

Each row's vector is kept under its *layout*: the names it declared, in its order. Which names are trained on is decided
when every row was seen: the policy's names, or those that nearly every row declares. A row that cannot give a finite
float32 for each of them is set aside with a reason; no value is ever made up.

A page of cells is parsed by one call: joined by `,` and a newline into one JSON array. No cell can reach into its
neighbour: no cell holds a raw newline, each opens and closes with the same bracket, vectors are typed flat, so depth is
zero at each cell's end, and a JSON string (a key) cannot run across a raw newline. Anything unusual is parsed row by
row, with the reason kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from retrain_worker.worker.data.feature_cells import Layout, Reason, declared_names, decode_cell
from retrain_worker.worker.data.joined_texts import JoinedTexts

Float32s = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Every row's features under one list of names."""

    names: tuple[str, ...]
    #: float32[n, len(names)]; rows with a reason hold anything
    matrix: Float32s
    #: int8[n] of Reason; FINE = all finite
    reasons: Int8s
    #: rows read by position, since nothing names their values
    assumed: int
    #: rows whose values were put in order by name
    permuted: int
    #: rows with a number written as text
    converted: int
    #: name -> rows that declare it, for names that are not trained on
    left_out: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Rows of one layout: where they belong, their values, and why a value is not a number."""

    rows: Int64s
    values: Float32s
    reasons: Int8s | None


_SEAM = ",\n"
_ARRAYS = msgspec.json.Decoder(list[list[float]])
_OBJECTS = msgspec.json.Decoder(list[dict[str, float]])


class FeatureReader:
    """Takes cells page by page, then gives the table. Memory: 4 bytes a value, plus one page."""

    def __init__(self) -> None:
        self._pieces: defaultdict[Layout, list[_Piece]] = defaultdict(list)
        self._refused: list[tuple[Int64s, Reason]] = []
        self._converted = 0
        self._rows = 0

    def add(self, cells: Sequence[Any], names: Sequence[Any]) -> None:
        """Decode one page: `features` and `feature_names` of the same rows."""
        first, self._rows = self._rows, self._rows + len(cells)
        rows = np.arange(first, self._rows)
        if len(cells) and names.count(names[0]) == len(names) and self._add_at_once(names[0], cells, rows):
            return
        for (is_plain, names_cell), places in _forms(cells, names).items():
            chosen = [cells[place] for place in places]
            if not (is_plain and self._add_at_once(names_cell, chosen, rows[places])):
                self._add_one_by_one(chosen, [names[place] for place in places], rows[places])

    def table(self, wanted: tuple[str, ...], *, inside: npt.NDArray[np.bool_], tolerance: float) -> FeatureTable:
        """The table of all rows added; the reader is empty afterwards. Rows outside the mask do not count for names.

        `wanted`: the names to train on, or () for those that a share of at least 1 - `tolerance` of the rows declare.
        """
        counts = {
            layout: sum(int(inside[piece.rows].sum()) for piece in pieces) for layout, pieces in self._pieces.items()
        }
        counts = {layout: count for layout, count in counts.items() if count}
        names = wanted or choose_names(counts, tolerance=tolerance)
        slot_requests = requests_of_unnamed(counts, names)
        matrix = np.full((self._rows, len(names)), np.nan, dtype=np.float32)
        reasons = np.full(self._rows, Reason.FEATURES_NOT_FINITE, dtype=np.int8)
        assumed = permuted = 0
        for layout in list(self._pieces):
            order = layout if isinstance(layout, tuple) else slot_requests.get(layout)
            absent = _why_absent(order, names, is_named_elsewhere=any(isinstance(other, tuple) for other in counts))
            for piece in self._pieces.pop(layout):
                if order is None or absent:
                    reasons[piece.rows] = absent
                    continue
                matrix[piece.rows] = piece.values[:, [order.index(name) for name in names]]
                if piece.reasons is not None:
                    reasons[piece.rows] = piece.reasons
            if order is not None and not absent:
                assumed += counts.get(layout, 0) if isinstance(layout, int) else 0
                permuted += counts.get(layout, 0) if tuple(name for name in order if name in names) != names else 0
        for rows, reason in self._refused:
            reasons[rows] = reason
        if names:
            # a value that is no number matters only where it is trained on
            reasons[np.isfinite(matrix).all(axis=1)] = Reason.FINE
        left_out = Counter[str]()
        for layout, count in counts.items():
            if isinstance(layout, tuple):
                left_out.update({name: count for name in layout if name not in names})
        return FeatureTable(
            names=names,
            matrix=matrix,
            reasons=reasons,
            assumed=assumed,
            permuted=permuted,
            converted=self._converted,
            left_out=left_out,
        )

    def _add_at_once(self, names_cell: Any, cells: Sequence[Any], rows: Int64s) -> bool:
        """Parse cells of one form by one call; False, with nothing added, when any of them is unusual."""
        try:
            is_joined = isinstance(cells, JoinedTexts) and cells.seam == _SEAM
            joined = cells.text if isinstance(cells, JoinedTexts) and is_joined else _SEAM.join(cells)
            brackets = joined[:1] + joined[-1:]
            # every seam lies between a closing and an opening bracket, and no cell brings a newline of its own; joined
            # texts have counted theirs
            seams = len(cells) - 1
            if joined.count(brackets[1:] + _SEAM + brackets[:1]) != seams:
                return False
            if not is_joined and joined.count("\n") != seams:
                return False
            layout: Layout
            if brackets == "{}":
                layout, values = _from_objects(_OBJECTS.decode(f"[{joined}]"))
            else:
                layout, values = _from_arrays(_ARRAYS.decode(f"[{joined}]"), declared_names(names_cell))
        except (msgspec.MsgspecError, TypeError, ValueError, LookupError):
            return False
        if len(values) != len(cells):
            return False
        self._keep(layout, rows, values)
        return True

    def _add_one_by_one(self, cells: Sequence[Any], names: Sequence[Any], rows: Int64s) -> None:
        by_layout: defaultdict[Layout, list[tuple[int, list[float], Reason]]] = defaultdict(list)
        refused: defaultdict[Reason, list[int]] = defaultdict(list)
        for row, cell, names_cell in zip(rows.tolist(), cells, names, strict=True):
            found = decode_cell(cell, names_cell)
            if isinstance(found, Reason):
                refused[found].append(row)
            else:
                by_layout[found.layout].append((row, found.values, found.reason))
                self._converted += found.is_converted
        for reason, refused_rows in refused.items():
            self._refused.append((np.array(refused_rows, dtype=np.int64), reason))
        for layout, vectors in by_layout.items():
            kept, values, reasons = zip(*vectors, strict=True)
            self._keep(
                layout,
                np.array(kept, dtype=np.int64),
                np.array(values, dtype=np.float64),
                np.array(reasons, dtype=np.int8),
            )

    def _keep(
        self, layout: Layout, rows: Int64s, values: npt.NDArray[np.float64], reasons: Int8s | None = None
    ) -> None:
        with np.errstate(over="ignore"):  # more than a float32 holds becomes an infinity, and the row is set aside
            narrow = values.astype(np.float32)
        narrow += np.float32(0.0)  # -0.0 and 0.0 are the same measurement, and must hash the same
        self._pieces[layout].append(_Piece(rows=rows, values=narrow, reasons=reasons))


def choose_names(counts: Mapping[Layout, int], *, tolerance: float) -> tuple[str, ...]:
    """The names to train on, from how many rows have which layout.

    Those that at least a share of 1 - `tolerance` of the named rows declare; when there is none, all names of the
    commonest layout; when no row names its values, f0, f1 ... for the commonest width. In the order of the commonest
    layout (of equally common ones, the first in the alphabet), so that the order of rows decides nothing.
    """
    ranked = sorted(counts, key=lambda each: (-counts[each], each if isinstance(each, tuple) else (str(each),)))
    named = [layout for layout in ranked if isinstance(layout, tuple)]
    if not named:
        widths = [layout for layout in ranked if isinstance(layout, int)]
        return tuple(f"f{place}" for place in range(widths[0])) if widths else ()
    declared = Counter[str]()
    for layout in named:
        declared.update(dict.fromkeys(layout, counts[layout]))
    needed = (1.0 - tolerance) * sum(counts[layout] for layout in named)
    common = {name for name, count in declared.items() if count >= needed}
    if not common:
        return named[0]
    return tuple(name for name in dict.fromkeys(chain.from_iterable(named)) if name in common)


def requests_of_unnamed(counts: Mapping[Layout, int], names: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
    """Width -> the names that arrays of this width are taken to have, where that is safe.

    Safe means: no row names its values, so that `names` is all there is; or all rows that do, agree on one order.
    """
    named = [layout for layout in counts if isinstance(layout, tuple)]
    if not named:
        return {len(names): names}
    return {len(named[0]): named[0]} if len(named) == 1 else {}


def _why_absent(order: tuple[str, ...] | None, names: tuple[str, ...], *, is_named_elsewhere: bool) -> Reason:
    """Why rows with these names in this order cannot give `names`, or FINE."""
    if order is None:
        return Reason.FEATURES_UNNAMED if is_named_elsewhere else Reason.FEATURES_WRONG_LENGTH
    return Reason.FINE if set(names) <= set(order) else Reason.FEATURES_MISSING_NAME


def _forms(cells: Sequence[Any], names: Sequence[Any]) -> dict[tuple[bool, Any], list[int]]:
    """(plainly an array or an object, names cell of an array) -> places."""
    forms: defaultdict[tuple[bool, Any], list[int]] = defaultdict(list)
    for place, (cell, names_cell) in enumerate(zip(cells, names, strict=True)):
        ends = cell[:1] + cell[-1:] if isinstance(cell, str) else ""
        forms[ends in ("{}", "[]"), names_cell if ends == "[]" else None].append(place)
    return forms


def _from_arrays(
    vectors: list[list[float]], declared: tuple[str, ...] | None
) -> tuple[Layout, npt.NDArray[np.float64]]:
    """The layout and float64[n, width]. Raises ValueError when the widths differ, or are not that of the names."""
    width = len(declared if declared is not None else vectors[0])
    if width == 0 or set(map(len, vectors)) != {width}:
        raise ValueError("vectors of several widths")
    flat = np.fromiter(chain.from_iterable(vectors), dtype=np.float64, count=len(vectors) * width)
    return (width if declared is None else declared), flat.reshape(len(vectors), width)


def _from_objects(objects: list[dict[str, float]]) -> tuple[Layout, npt.NDArray[np.float64]]:
    """The layout and float64[n, width]. Raises KeyError or ValueError when the objects have not all the same keys."""
    layout = tuple(objects[0])
    if not layout or set(map(len, objects)) != {len(layout)}:
        raise ValueError("objects of several sizes")
    values = map(itemgetter(*layout), objects)
    flat = chain.from_iterable(values) if len(layout) > 1 else values
    return layout, np.fromiter(flat, dtype=np.float64, count=len(objects) * len(layout)).reshape(-1, len(layout))
