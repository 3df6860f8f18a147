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

import polars as pl

from retrain_worker.worker.data.feature_cells import Layout, Order, Reason, declared_names, decode_cell, layout_of

#: the places of the wanted names in a vector, or why the rows cannot give them; FINE: for the reason in FAULT
_Source = tuple[int, ...] | Reason

#: columns that `decode` adds in the place of features and feature_names
VECTOR, LAYOUT, FAULT = "vector", "layout", "fault"
#: orders of keys or names in one page, from which on its cells are decoded one by one
_MAX_ORDERS = 64
_CELL = pl.col("features")
_KEY, _VALUE = r'"[^"\\:\x00-\x1f]*"', r": ?[-+0-9.eE]+"
#: cells of numbers alone, their pattern; what gives the array of their keys, and the array of their values
_FORMS = (
    (r"^\[[-+0-9.eE, ]*\]$", pl.lit(None, dtype=pl.String), _CELL),
    (
        rf"^\{{{_KEY}{_VALUE}(?:, ?{_KEY}{_VALUE})*\}}$",
        "[" + _CELL.str.replace_all(_VALUE, "").str.strip_chars("{}") + "]",
        "[" + _CELL.str.replace_all(f"{_KEY}: ?", "").str.strip_chars("{}") + "]",
    ),
)


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """What the rows have under one list of names."""

    names: tuple[str, ...]
    #: rows whose features are assumed (read by position, since nothing names their values), permuted (put in order by
    #: name), contradicted (an object with other keys than the names declared), converted (a number written as text)
    noted: Mapping[str, int]
    #: declared names that objects lack
    undelivered: tuple[str, ...]
    #: name -> rows that declare it, for names that are not trained on
    left_out: Mapping[str, int]
    #: name -> rows whose value of it is no finite number
    unusable: Mapping[str, int]


def column_of(name: str) -> str:
    """The column of a feature; no other column begins like it."""
    return f"feature_{name}"


class FeatureDecoder:
    """Decodes page after page, and remembers the layouts it has met."""

    def __init__(self) -> None:
        #: None: the row has no vector
        self._layouts: dict[Layout | None, int] = {None: -1}
        #: the keys of objects, in the order in which they were met first: that of another object has no meaning
        self._orders: dict[frozenset[str], tuple[str, ...]] = {}
        self._converted = 0

    def decode(self, page: pl.DataFrame) -> pl.DataFrame:
        """The page with VECTOR (List(Float32)), LAYOUT (Int32), FAULT (Int8) instead of its cells; in any order.

        FAULT: why the row has no vector; else the reason that holds if a value of the vector is not finite.
        """
        parts = []
        for pattern, keys, numbers in _FORMS:
            chosen, page = _divided(page, pattern)
            if len(chosen):
                parts += self._numbers(chosen.with_columns(keys=keys, numbers=numbers))
        if len(page) or not parts:
            parts.append(self._one_by_one(page))
        return pl.concat(parts)

    def table(
        self, rows: pl.DataFrame, wanted: tuple[str, ...], *, tolerance: float
    ) -> tuple[pl.DataFrame, FeatureTable]:
        """The decoded rows with a column `column_of(name)` for each name, and `reason`: Int8 of Reason, FINE = finite.

        `wanted`: the names to train on, or () for those that a share of at least 1 - `tolerance` of the rows declare.
        """
        by_code = {code: layout for layout, code in self._layouts.items()}
        found = {by_code[code]: count for code, count in rows.group_by(LAYOUT).len().iter_rows()} or {None: 0}
        counts = Counter[Order]()
        for layout, count in found.items():
            if layout:
                counts[layout.order] += count
        names = wanted or choose_names(counts, tolerance=tolerance)
        unnamed = orders_of_unnamed(counts, names)
        is_named = any(isinstance(order, tuple) for order in counts)
        undelivered = set[str]()
        noted, left_out, unusable = Counter(features_converted=self._converted), Counter[str](), Counter[str]()
        #: what is done with the rows of each layout, as many have the same in common
        sources: dict[_Source, list[int]] = {}
        for layout, count in found.items():
            order = layout and (unnamed.get(layout.order) if isinstance(layout.order, int) else layout.order)
            source = _source_of(order, names, is_named_elsewhere=is_named) if layout else Reason.FINE
            sources.setdefault(source, []).append(self._layouts[layout])
            if layout is None:
                continue
            if layout.contradicted:
                noted["features_contradicted"] += count
                undelivered |= layout.lacking()
            if order and isinstance(layout.order, int):
                noted["features_assumed"] += count
            if order and {*names} <= {*order} and [name for name in order if name in names] != [*names]:
                noted["features_permuted"] += count
            if isinstance(layout.order, tuple):
                left_out.update({name: count for name in layout.order if name not in names})
        parts = []
        for source, chosen in _by_source(rows, sources):
            part = _from_source(chosen, source, names)
            unusable.update(_not_finite(part, names))
            parts.append(part)
        return pl.concat(parts), FeatureTable(
            names=names,
            noted=noted,
            undelivered=tuple(sorted(undelivered)),
            left_out=left_out,
            unusable=unusable,
        )

    def _numbers(self, page: pl.DataFrame) -> list[pl.DataFrame]:
        """The page with `numbers`, arrays of nothing else, and `keys`, the array of their names in the same cell."""
        if max(page[column].n_unique() for column in ("keys", "feature_names")) > _MAX_ORDERS:
            return [self._one_by_one(page)]
        try:
            page = page.with_columns(pl.col("numbers").str.json_decode(pl.List(pl.Float64)).alias(VECTOR))
        except pl.exceptions.ComputeError:  # a number that is not one of JSON's
            return [self._one_by_one(page)]
        group = ("feature_names", "keys", pl.col(VECTOR).list.len().alias("width"))
        parts = []
        for (names_cell, keys_cell, width), chosen in page.group_by(*group, maintain_order=True):
            vector = pl.col(VECTOR).cast(pl.List(pl.Float32))
            try:
                if keys := declared_names(keys_cell):
                    own, keys = keys, self._orders.setdefault(frozenset(keys), keys)
                    vector = vector if keys == own else vector.list.gather([own.index(key) for key in keys])
                layout = layout_of(keys, names_cell, width=width)
            except ValueError:
                layout = None
            if layout is None:
                parts.append(self._one_by_one(chosen))
                continue
            parts.append(
                _without_cells(chosen).with_columns(
                    vector,
                    pl.lit(self._code_of(layout), dtype=pl.Int32).alias(LAYOUT),
                    pl.lit(Reason.FEATURES_NOT_FINITE, dtype=pl.Int8).alias(FAULT),
                )
            )
        return parts

    def _one_by_one(self, page: pl.DataFrame) -> pl.DataFrame:
        found = [
            decode_cell(cell, names_cell, self._orders)
            for cell, names_cell in page.select("features", "feature_names").iter_rows()
        ]
        self._converted += sum(each.is_converted for each in found)
        return _without_cells(page).with_columns(
            pl.Series(VECTOR, [each.values for each in found], dtype=pl.List(pl.Float64)).cast(pl.List(pl.Float32)),
            pl.Series(LAYOUT, [self._code_of(each.layout) for each in found], dtype=pl.Int32),
            pl.Series(FAULT, [each.reason for each in found], dtype=pl.Int8),
        )

    def _code_of(self, layout: Layout | None) -> int:
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


def _divided(page: pl.DataFrame, pattern: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows whose cell has this form, and the others."""
    has_form = page.select(_CELL.str.contains(pattern).fill_null(False)).to_series()
    if has_form.all():
        return page, page.clear()
    return page.filter(has_form), page.filter(~has_form)


def _without_cells(page: pl.DataFrame) -> pl.DataFrame:
    return page.drop("features", "feature_names", "keys", "numbers", strict=False)


def _source_of(order: tuple[str, ...] | None, names: tuple[str, ...], *, is_named_elsewhere: bool) -> _Source:
    """Where vectors of this order have the values of the names."""
    if order is None:
        return Reason.FEATURES_UNNAMED if is_named_elsewhere else Reason.FEATURES_WRONG_LENGTH
    if not set(names) <= set(order):
        return Reason.FEATURES_MISSING_NAME
    return tuple(map(order.index, names))


def _by_source(rows: pl.DataFrame, sources: Mapping[_Source, list[int]]) -> list[tuple[_Source, pl.DataFrame]]:
    """The rows of each source. Divided at once: every row may have names of its own."""
    if len(sources) == 1:
        return [(source, rows) for source in sources]
    listed = list(sources)
    numbers = {code: number for number, source in enumerate(listed) for code in sources[source]}
    divided = rows.with_columns(source=pl.col(LAYOUT).replace_strict(numbers, return_dtype=pl.Int32))
    return [
        (listed[number], chosen)
        for (number,), chosen in divided.partition_by("source", include_key=False, as_dict=True).items()
    ]


def _from_source(rows: pl.DataFrame, source: _Source, names: tuple[str, ...]) -> pl.DataFrame:
    """The rows with a column for each name, or with the reason why they cannot give them."""
    if isinstance(source, Reason):
        return _refused(rows, pl.col(FAULT) if source is Reason.FINE else pl.lit(source, dtype=pl.Int8), names)
    # -0.0 and 0.0 are the same measurement, and must hash the same
    values = [
        (pl.col(VECTOR).list.get(place) + 0.0).alias(column_of(name)) for name, place in zip(names, source, strict=True)
    ]
    is_finite = pl.all_horizontal(pl.col(column_of(name)).is_finite() for name in names) if names else pl.lit(False)
    reason = pl.when(is_finite).then(pl.lit(Reason.FINE, dtype=pl.Int8)).otherwise(pl.col(FAULT)).alias("reason")
    return rows.with_columns(values).with_columns(reason).drop(VECTOR, LAYOUT, FAULT)


def _not_finite(rows: pl.DataFrame, names: tuple[str, ...]) -> dict[str, int]:
    """Name -> rows whose value is no finite number, of those that have a value of each name."""
    spoilt = rows.filter(pl.col("reason") != Reason.FINE)
    counts = spoilt.select((~pl.col(column_of(name)).is_finite()).sum().alias(name) for name in names)
    return {name: count for name, count in counts.row(0, named=True).items() if count} if names else {}


def _refused(rows: pl.DataFrame, reason: pl.Expr, names: tuple[str, ...]) -> pl.DataFrame:
    nothing = [pl.lit(None, dtype=pl.Float32).alias(column_of(name)) for name in names]
    return rows.with_columns(*nothing, reason.alias("reason")).drop(VECTOR, LAYOUT, FAULT)
