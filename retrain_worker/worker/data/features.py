"""Feature cells (JSON arrays with their names, or JSON objects) as one Float32 column a feature, matched by name.

`decode` turns the cells of a page into vectors. Each vector has a *layout*: the names it declares, in its order. Which
names are trained on is decided when every row was seen: those of the policy, or those that nearly every row declares.
A row that cannot give a finite float32 for each of them is quarantined with a reason; no value is ever made up.

A page is decoded by one call where its cells consist of numbers alone: two patterns find those cells, so that none
can hold text, a nested value, or a newline that would make two rows of it. The other cells are decoded one by one
(feature_cells.py), and so is a page in which a number is not one of JSON's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import orjson
import polars as pl

from retrain_worker.worker.data.feature_cells import Order, Reason, declared_names, decode_cell

#: columns that `decode` adds in the place of features and feature_names
VECTOR, LAYOUT, FAULT = "vector", "layout", "fault"
#: the layout of a row without a vector
_NO_LAYOUT = -1
_ARRAY = r"^\[[-+0-9.eE, ]*\]$"
_MEMBER = r'"[^"\\:\x00-\x1f]*": ?[-+0-9.eE]+'
_OBJECT = rf"^\{{{_MEMBER}(?:, ?{_MEMBER})*\}}$"
#: sets of keys that one page may have before its other objects are decoded one by one
_MAX_KEY_SETS = 8


class Layout(NamedTuple):
    """What the values of a vector are called."""

    #: names in the order of the values, or the number of values without names
    order: Order
    #: the names that the row declares beside an object, where they are not the object's keys
    contradicted: tuple[str, ...] | None = None

    def lacking(self) -> set[str]:
        """The names that are declared and have no value."""
        return {*(self.contradicted or ())} - {*(self.order if isinstance(self.order, tuple) else ())}


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """What the rows have under one list of names."""

    names: tuple[str, ...]
    #: rows read by position, since nothing names their values
    assumed: int
    #: rows whose values were put in order by name
    permuted: int
    #: rows whose object has other keys than the names they declare
    contradicted: int
    #: declared names that those objects lack
    undelivered: tuple[str, ...]
    #: name -> rows that declare it, for names that are not trained on
    left_out: Mapping[str, int]


def column_of(name: str) -> str:
    """The column of a feature; no other column begins like it."""
    return f"feature_{name}"


class FeatureDecoder:
    """Decodes page after page, and remembers the layouts it has met."""

    def __init__(self) -> None:
        self._layouts: dict[Layout, int] = {}
        #: rows with a number written as text
        self.converted = 0

    def decode(self, page: pl.DataFrame) -> pl.DataFrame:
        """The page with VECTOR (List(Float32)), LAYOUT (Int32), FAULT (Int8) instead of its cells; in any order.

        FAULT: why the row has no vector; else the reason that holds if a value of the vector is not finite.
        """
        arrays, others = _divided(page, _ARRAY)
        objects, others = _divided(others, _OBJECT)
        parts = [*self._arrays(arrays), *self._objects(objects), *self._one_by_one(others)]
        return pl.concat(parts) if parts else self._vectors(page, pl.Series([], dtype=pl.List(pl.Float64)), Layout(0))

    def table(
        self, rows: pl.DataFrame, wanted: tuple[str, ...], *, tolerance: float
    ) -> tuple[pl.DataFrame, FeatureTable]:
        """The decoded rows with a column `column_of(name)` for each name, and `reason`: Int8 of Reason, FINE = finite.

        `wanted`: the names to train on, or () for those that a share of at least 1 - `tolerance` of the rows declare.
        """
        by_code = {code: layout for layout, code in self._layouts.items()}
        found = dict(rows.group_by(LAYOUT).len().iter_rows())
        layouts = {by_code[code]: count for code, count in found.items() if code != _NO_LAYOUT}
        counts = Counter[Order]()
        for layout, count in layouts.items():
            counts[layout.order] += count
        names = wanted or choose_names(counts, tolerance=tolerance)
        unnamed = orders_of_unnamed(counts, names)
        orders = {order: unnamed.get(order) if isinstance(order, int) else order for order in counts}
        is_named = any(isinstance(order, tuple) for order in counts)
        parts = []
        for layout in layouts:
            chosen = rows.filter(pl.col(LAYOUT) == self._layouts[layout]) if len(found) > 1 else rows
            parts.append(_under_names(chosen, orders[layout.order], names, is_named_elsewhere=is_named))
        if _NO_LAYOUT in found or not parts:
            parts.append(_refused(rows.filter(pl.col(LAYOUT) == _NO_LAYOUT), pl.col(FAULT), names))
        left_out = Counter[str]()
        for order in counts:
            if isinstance(order, tuple):
                left_out.update({name: counts[order] for name in order if name not in names})
        undelivered = {name for layout in layouts for name in layout.lacking()}
        return pl.concat(parts), FeatureTable(
            names=names,
            assumed=sum(count for order, count in counts.items() if isinstance(order, int) and orders[order]),
            permuted=sum(
                count
                for order, count in counts.items()
                if (own := orders[order]) and set(names) <= set(own) and [n for n in own if n in names] != list(names)
            ),
            contradicted=sum(count for layout, count in layouts.items() if layout.contradicted),
            undelivered=tuple(sorted(undelivered)),
            left_out=left_out,
        )

    def _arrays(self, page: pl.DataFrame) -> list[pl.DataFrame]:
        """Cells that are arrays of numbers."""
        if not len(page):
            return []
        values = _decoded(page["features"], pl.List(pl.Float64))
        if values is None:
            return self._one_by_one(page)
        page = page.with_columns(values.alias(VECTOR))
        groups = page.select("feature_names", pl.col(VECTOR).list.len().alias("width")).unique(maintain_order=True)
        parts = []
        for names_cell, width in groups.iter_rows():
            is_own = pl.col("feature_names").eq_missing(names_cell) & (pl.col(VECTOR).list.len() == width)
            chosen = page.filter(is_own) if len(groups) > 1 else page
            try:
                order: Order = declared_names(names_cell) or width
            except ValueError:
                order = 0
            if width and (order if isinstance(order, int) else len(order)) == width:
                parts.append(self._vectors(chosen, chosen[VECTOR], Layout(order)))
            else:
                parts += self._one_by_one(chosen.drop(VECTOR))
        return parts

    def _objects(self, page: pl.DataFrame) -> list[pl.DataFrame]:
        """Cells that are objects of numbers: those with the keys of the first, then of the first of the others."""
        parts: list[pl.DataFrame] = []
        for _ in range(_MAX_KEY_SETS):
            if not len(page):
                return parts
            try:
                keys = tuple(orjson.loads(page["features"][0]))
            except orjson.JSONDecodeError:
                break
            # as many colons as keys, and a value for each of them: so no other key, and none twice
            is_like_first = page["features"].str.count_matches(":", literal=True) == len(keys)
            alike = page.filter(is_like_first)
            values = _decoded(alike["features"], pl.Struct(dict.fromkeys(keys, pl.Float64)))
            if values is None or not len(alike):
                break
            found = values.struct.unnest()
            has_all = ~found.select(pl.any_horizontal(pl.all().is_null())).to_series()
            vectors = found.select(pl.concat_list(pl.all())).to_series()
            parts += self._declared(alike.filter(has_all), vectors.filter(has_all), keys)
            page = pl.concat([page.filter(~is_like_first), alike.filter(~has_all)])
        return [*parts, *self._one_by_one(page)]

    def _declared(self, page: pl.DataFrame, vectors: pl.Series, keys: tuple[str, ...]) -> list[pl.DataFrame]:
        """Rows of one set of keys, by the names that they declare beside."""
        cells = page["feature_names"].unique()
        parts = []
        for names_cell in cells:
            is_own = page["feature_names"].eq_missing(names_cell)
            parts.append(
                self._vectors(page.filter(is_own), vectors.filter(is_own), Layout(keys, contradicted(keys, names_cell)))
            )
        return parts

    def _one_by_one(self, page: pl.DataFrame) -> list[pl.DataFrame]:
        if not len(page):
            return []
        found = [decode_cell(*cells) for cells in page.select("features", "feature_names").iter_rows()]
        vectors: list[list[float] | None] = []
        layouts, faults = [], []
        for each, names_cell in zip(found, page["feature_names"], strict=True):
            if isinstance(each, Reason):
                vectors.append(None)
                layouts.append(_NO_LAYOUT)
                faults.append(each)
                continue
            beside = contradicted(each.order, names_cell) if each.is_object else None
            vectors.append(each.values)
            layouts.append(self._code_of(Layout(each.order, beside)))
            faults.append(each.reason)
            self.converted += each.is_converted
        columns = (
            pl.Series(VECTOR, vectors, dtype=pl.List(pl.Float64)).cast(pl.List(pl.Float32)),
            pl.Series(LAYOUT, layouts, dtype=pl.Int32),
            pl.Series(FAULT, faults, dtype=pl.Int8),
        )
        return [page.drop("features", "feature_names").with_columns(*columns)]

    def _vectors(self, page: pl.DataFrame, vectors: pl.Series, layout: Layout) -> pl.DataFrame:
        return page.drop("features", "feature_names").with_columns(
            vectors.cast(pl.List(pl.Float32)).alias(VECTOR),
            pl.lit(self._code_of(layout), dtype=pl.Int32).alias(LAYOUT),
            pl.lit(Reason.FEATURES_NOT_FINITE, dtype=pl.Int8).alias(FAULT),
        )

    def _code_of(self, layout: Layout) -> int:
        return self._layouts.setdefault(layout, len(self._layouts))


def choose_names(counts: Mapping[Order, int], *, tolerance: float) -> tuple[str, ...]:
    """The names to train on, from how many rows have which order of names.

    Those that at least a share of 1 - `tolerance` of the named rows declare; when there is none, all names of the
    commonest order; when no row names its values, f0, f1 ... for the commonest width. In the sequence of the commonest
    order (of equally common ones, the first in the alphabet), so that the order of rows decides nothing.
    """
    ranked = sorted(counts, key=lambda each: (-counts[each], each if isinstance(each, tuple) else (str(each),)))
    named = [order for order in ranked if isinstance(order, tuple)]
    if not named:
        widths = [order for order in ranked if isinstance(order, int)]
        return tuple(f"f{place}" for place in range(widths[0])) if widths else ()
    declared = Counter[str]()
    for order in named:
        declared.update(dict.fromkeys(order, counts[order]))
    required = (1.0 - tolerance) * sum(counts[order] for order in named)
    common = {name for name, count in declared.items() if count >= required}
    if not common:
        return named[0]
    return tuple(name for name in dict.fromkeys(chain.from_iterable(named)) if name in common)


def orders_of_unnamed(counts: Mapping[Order, int], names: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
    """Width -> the names that arrays of this width are taken to have, where that is safe.

    Safe means: no row names its values, so that `names` is all there is; or all rows that do, agree on one order.
    """
    named = [order for order in counts if isinstance(order, tuple)]
    if not named:
        return {len(names): names}
    return {len(named[0]): named[0]} if len(named) == 1 else {}


def contradicted(keys: Order, names_cell: str | None) -> tuple[str, ...] | None:
    """The names that a row declares beside an object with other keys, or None where the two agree."""
    try:
        names = declared_names(names_cell)
    except ValueError:
        return None
    return names if names and set(names) != set(keys if isinstance(keys, tuple) else ()) else None


def _divided(page: pl.DataFrame, pattern: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows whose cell has this form, and the others."""
    has_form = page["features"].str.contains(pattern).fill_null(False)
    if has_form.all():
        return page, page.clear()
    return page.filter(has_form), page.filter(~has_form)


def _decoded(cells: pl.Series, kind: pl.DataType) -> pl.Series | None:
    """The cells as `kind`, or None when one of them is not JSON or does not fit."""
    try:
        values = cells.str.json_decode(kind)
    except pl.exceptions.ComputeError:
        return None
    return values if len(values) == len(cells) else None


def _under_names(
    rows: pl.DataFrame, order: tuple[str, ...] | None, names: tuple[str, ...], *, is_named_elsewhere: bool
) -> pl.DataFrame:
    """Rows of one layout with a column for each name, or with the reason why they cannot give them."""
    if order is None:
        absent = Reason.FEATURES_UNNAMED if is_named_elsewhere else Reason.FEATURES_WRONG_LENGTH
        return _refused(rows, pl.lit(absent, dtype=pl.Int8), names)
    if not set(names) <= set(order):
        return _refused(rows, pl.lit(Reason.FEATURES_MISSING_NAME, dtype=pl.Int8), names)
    # -0.0 and 0.0 are the same measurement, and must hash the same
    values = [(pl.col(VECTOR).list.get(order.index(name)) + 0.0).alias(column_of(name)) for name in names]
    is_finite = pl.all_horizontal(pl.col(column_of(name)).is_finite() for name in names) if names else pl.lit(False)
    reason = pl.when(is_finite).then(pl.lit(Reason.FINE, dtype=pl.Int8)).otherwise(pl.col(FAULT)).alias("reason")
    return rows.with_columns(values).with_columns(reason).drop(VECTOR, LAYOUT, FAULT)


def _refused(rows: pl.DataFrame, reason: pl.Expr, names: tuple[str, ...]) -> pl.DataFrame:
    nothing = [pl.lit(None, dtype=pl.Float32).alias(column_of(name)) for name in names]
    return rows.with_columns(*nothing, reason.alias("reason")).drop(VECTOR, LAYOUT, FAULT)
