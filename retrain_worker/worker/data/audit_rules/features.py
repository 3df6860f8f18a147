"""Features: names, constants, scale, jumps, and whether one of them gives the outcome away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.worker_protocol import UNNAMED
from retrain_worker.worker.data import outliers
from retrain_worker.worker.data.audit_rules.rule import (
    EXAMPLES,
    LABELLED,
    Audited,
    Rule,
    counted,
    counting,
    finding,
    listed,
    safe_name,
    warning_if,
)
from retrain_worker.worker.data.feature_cells import Reason
from retrain_worker.worker.data.instants import in_words
from retrain_worker.worker.data.outcomes import BUY, SELL, WIN
from retrain_worker.worker.statistics import area_under_roc

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: as so many codes a feature is read, where it has more values; learnt on every other of so many stretches of time
_CODES, _BLOCKS = 200, 10
#: rows of each class from which a leak is sought among the rows of one side
_MIN_SIDE_ROWS = 50
#: a feature whose values reach further than this has probably another unit
_HUGE = 1e6
#: share of rows that repeat the row before them, and rows in one stretch that do: more looks like a stalled feed
_FROZEN, _STALLED_ROWS = 0.5, 64
#: distance (Kolmogorov-Smirnov) between all rows before an instant and all rows after it, from which it is a jump;
#: 20 days of a market in one trend reach 0.7
_JUMP = 0.85
#: share of the change of the median that must happen within a hundredth of the rows, at least _LOCAL_ROWS: a trend or
#: a random walk is no jump
_ABRUPT, _LOCAL_ROWS = 0.6, 30
#: where a change is tried, as shares of the rows, and how many rows are read
_TRIED, _JUMP_ROWS = np.linspace(0.05, 0.95, 37), 4_000
#: rows under which the distributions before and after cannot be compared
_MIN_JUMP_ROWS = 200


def leak(audited: Audited) -> Finding:
    """AUC of each feature's last value alone: one that was made from the outcome decides it, no market feature does."""
    labelled, limit = audited.in_time.filter(LABELLED), audited.policy.max_single_feature_auc
    is_win = (labelled["outcome"] == WIN).to_numpy()
    if is_win.all() or not is_win.any():
        text = "leaks cannot be measured with fewer than two classes"
        return finding("features.leak", Severity.WARNING, text, limit=limit)
    columns = {name: labelled[column].to_numpy() for column, name in audited.names.items()}
    aucs = {name: area_under_roc(is_win, values) for name, values in columns.items()}
    coded = {name: _auc_of_codes(values, is_win) for name, values in columns.items()}
    # a price from after the decision makes a BUY win and a SELL lose: of both together, its order tells nothing
    sides = _rows_by_side(labelled["side"].to_numpy(), is_win)
    by_side = {
        name: {side: area_under_roc(is_win[rows], values[rows]) for side, rows in sides.items()}
        for name, values in columns.items()
    }
    strength = {
        name: max(coded[name], *(max(each, 1.0 - each) for each in (auc, *by_side[name].values())))
        for name, auc in aucs.items()
    }
    strongest = max(strength, key=strength.__getitem__)
    leaks = listed(name for name, each in strength.items() if each >= limit)
    return finding(
        "features.leak",
        Severity.REFUSAL if leaks else Severity.OK,
        f"the strongest single feature is {strongest} with an AUC of {aucs[strongest]:.3f} by its order"
        + "".join(f", {auc:.3f} among {side}" for side, auc in by_side[strongest].items())
        + f", and {coded[strongest]:.3f} by its values as codes (a leak from {limit:g}, or {1 - limit:.2g} and under)",
        measured=strength[strongest],
        limit=limit,
        subject=leaks or strongest,
        examples=tuple(f"{name} {auc:.3f}, {coded[name]:.3f}" for name, auc in aucs.items())[:EXAMPLES],
        remedy=f"{leaks} predicts the outcome: leave it out of FEATURE_NAMES, or correct the service that computes it",
    )


def _rows_by_side(side: npt.NDArray[np.int8], is_win: Bools) -> dict[str, Bools]:
    """BUY and SELL -> which rows are of it, where it has _MIN_SIDE_ROWS of each class."""
    sides = {"BUY": side == BUY, "SELL": side == SELL}
    return {
        name: rows
        for name, rows in sides.items()
        if min((rows & is_win).sum(), (rows & ~is_win).sum()) >= _MIN_SIDE_ROWS
    }


def _auc_of_codes(values: Floats, is_win: Bools) -> float:
    """AUC of the share of WIN among rows of (nearly) the same value, in time order; 0.5 where there is only one class.

    A code for the outcome need not rise with it: 1 for a stop, 2 for a target, 3 for another stop has an AUC of 0.5.
    Learnt on every other block in time, measured on the rest: that neighbours share values and outcomes is no leak.
    """
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, _CODES + 1), method="lower"))
    codes = np.searchsorted(edges, values)
    is_learnt = np.arange(len(codes)) * _BLOCKS // max(1, len(codes)) % 2 == 0
    wins, rows = (
        np.bincount(codes[is_learnt], weights=weights, minlength=len(edges) + 1)
        for weights in (is_win[is_learnt].astype(np.float64), None)
    )
    share = (wins + 0.5) / (rows + 1.0)
    measured = is_win[~is_learnt]
    if measured.all() or not measured.any():
        return 0.5
    return area_under_roc(measured, share[codes[~is_learnt]])


def contradicted(audited: Audited) -> Finding:
    """Objects with other keys than feature_names: the model would have fewer inputs than names.

    Refused where the engine takes more features than the objects give.
    """
    rows, missing = audited.count("features_contradicted"), audited.facts.features_undelivered
    names, engine, given = listed(map(safe_name, missing)), audited.engine_names, len(audited.names)
    # the engine's network takes four features twice or eight once; a file without names does not state which
    is_too_few = given not in (len(engine), len(engine) // 2) if UNNAMED in engine else given < len(engine)
    is_short = bool(missing and engine) and (is_too_few or bool({*engine} & {*missing}))
    return finding(
        "features.contradicted",
        Severity.REFUSAL if is_short else warning_if(rows > 0),
        f"{rows:,} rows declare feature_names other than the keys of their features"
        + (f"; declared, but without a value: {names}" if missing else ""),
        measured=rows,
        limit=0,
        subject=names,
        counts={"count": rows, "engine_features": len(engine)},
        remedy=f"the engine takes {len(engine)} features, the rows give {given}: " * is_short
        + "correct the service that writes features, or its feature_names",
    )


def jump(audited: Audited) -> Finding:
    """Features whose distribution changes at one instant: values have changed places, or have another unit since."""
    jumps, largest = {}, 0.0
    for column, name in audited.names.items():
        values = audited.in_time[column].to_numpy().astype(np.float64)
        # a change of scale leaves the median where it is, but not the distance from it
        apart, at = max(_jump_of(each) for each in (values, np.abs(values - np.median(values))))
        largest = max(largest, apart)
        if apart > _JUMP:
            jumps[name] = f"{name} at {in_words(audited.in_time['decided_at'][at])}"
    return counted(
        audited,
        "features.jump",
        len(jumps),
        f"features jump within the window ({listed(jumps.values()) or 'none'}; the largest distance between before "
        f"and after is {largest:.2f}, a warning over {_JUMP:g})",
        remedy="check whether the service that computes them has changed their order or unit; set TRAIN_WINDOW_DAYS so "
        "that the window begins after it",
        subject=listed(jumps),
    )


def _jump_of(values: Floats) -> tuple[float, int]:
    """(the largest distance between the values before and after an abrupt change, the row after it), in time order."""
    if len(values) < _MIN_JUMP_ROWS:
        return 0.0, 0
    sample = values[:: max(1, len(values) // _JUMP_ROWS)]
    apart, level = _largest_distance(sample, (_TRIED * len(sample)).astype(int))
    # the row at which the share of values under the level that separates the two changes most (Pettitt, 1979)
    is_low = values <= level
    at = int(np.abs(np.cumsum(is_low - is_low.mean())[:-1]).argmax()) + 1
    change, nearby = (
        abs(np.median(values[at : at + rows]) - np.median(values[max(0, at - rows) : at]))
        for rows in (len(values), max(_LOCAL_ROWS, len(values) // 100))
    )
    return (apart if nearby >= _ABRUPT * change > 0 else 0.0), at


def _largest_distance(values: Floats, cuts: npt.NDArray[np.integer]) -> tuple[float, float]:
    """The largest of the distances before and after each cut, and its value: statistics.distance, sorted only once."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ends = np.flatnonzero(np.diff(ordered, append=np.inf))  # equal values are passed together
    before = np.cumsum(order < cuts[:, None], axis=1)[:, ends]
    apart = np.abs(before / cuts[:, None] - (ends + 1 - before) / (len(values) - cuts[:, None]))
    return float(apart.max()), float(ordered[ends[apart.argmax() % len(ends)]])


def constant(audited: Audited) -> Finding:
    """Features of one value."""
    numbers = audited.rows.select(pl.col(column).n_unique() for column in audited.names).row(0)
    found = [name for name, number in zip(audited.names.values(), numbers, strict=True) if number == 1]
    is_all, words = len(found) == len(audited.names) > 0, listed(found)
    return finding(
        "features.constant",
        Severity.REFUSAL if is_all else warning_if(bool(found)),
        "every feature has one value in all rows: there is nothing to learn from"
        if is_all
        else f"features with one value in all rows: {words or 'none'}",
        measured=len(found),
        limit=0,
        subject=words,
        remedy="check the service that computes the features",
    )


def names(audited: Audited) -> Finding:
    """What is trained on, and what the names of the rows do not settle."""
    left_out = audited.facts.features_left_out
    words = listed(f"{safe_name(name)} ({rows:,} rows)" for name, rows in sorted(left_out.items()))
    notes = (
        (audited.count("features_assumed"), "rows do not name their values, which are taken by position"),
        (audited.count("features_permuted"), "rows name them in another order and were put in order"),
        (len(left_out), f"are not trained on, because not every row has them: {words}"),
    )
    return finding(
        "features.names",
        warning_if(any(count for count, _ in notes)),
        "; ".join(
            [f"{len(audited.names)} features: {listed(audited.names.values())}"]
            + [f"{count:,} {words}" for count, words in notes if count]
        ),
        measured=len(audited.names),
    )


def scale(audited: Audited) -> Finding:
    """How far each feature reaches."""
    reach = audited.rows.select(pl.col(column).abs().max() for column in audited.names).row(0)
    huge = {name: value for name, value in zip(audited.names.values(), reach, strict=True) if value > _HUGE}
    words = listed(f"{name} (up to {value:.3g})" for name, value in huge.items())
    return finding(
        "features.scale",
        warning_if(bool(huge)),
        f"{len(huge)} features reach beyond {_HUGE:g}{f': {words}' if huge else ''}",
        measured=float(max(reach, default=0.0)),
        limit=_HUGE,
        subject=listed(huge),
        remedy="check the unit, and that the engine computes the same",
    )


def frozen(audited: Audited) -> Finding:
    """Rows that repeat the features of the row before them: of all symbols, and the longest stretch of one."""
    repeats = [pl.col(column) == pl.col(column).shift().over("symbol") for column in audited.names]
    is_repeat = pl.all_horizontal(repeats).fill_null(False) if repeats else pl.lit(False)
    rows = audited.rows.select("symbol", "decided_at", is_repeat=is_repeat)
    # each row that is no repeat begins a stretch
    stretches = rows.group_by((~pl.col("is_repeat")).cum_sum(), maintain_order=True).agg(
        pl.col("symbol", "decided_at").first(), rows=pl.len() - 1
    )
    symbol, begin, longest = stretches.row(stretches["rows"].arg_max() or 0)[1:]
    part, whole = int(rows["is_repeat"].sum()), len(rows) - len(audited.snapshot.symbols)
    share = part / whole if whole else 0.0
    place = f"{safe_name(symbol)} after {in_words(begin)}; " if longest else ""
    return finding(
        "features.frozen",
        warning_if(share > _FROZEN or longest >= _STALLED_ROWS),
        f"{part:,} of {whole:,} rows repeat the features of the row before them ({share:.1%}), at most {longest:,} in "
        f"succession ({place}a warning over {_FROZEN:.0%}, or from {_STALLED_ROWS} in succession)",
        measured=share,
        limit=_FROZEN,
        subject=safe_name(symbol) if longest >= _STALLED_ROWS else "",
        counts={"part": part, "whole": whole, "longest": longest},
        remedy="check the price feed of the service that computes the features",
    )


RULES: tuple[Rule, ...] = (
    leak,
    contradicted,
    jump,
    constant,
    names,
    counting("features.converted", "features_converted", "rows write a number as text, which was converted"),
    counting(
        "features.outliers",
        Reason.FEATURES_OUTLIER.word,
        f"rows are quarantined, because a feature is over {outliers.LIMIT:g} interquartile ranges from its median and "
        f"makes its standard deviation over {outliers.INFLATION:g} times that of the other rows",
        "check the unit in which the service writes them",
    ),
    scale,
    frozen,
)
