"""Drift: the rows since the last promoted run against the rows of that run. No finding of drift refuses.

Only rows newer than the newest of the reference are compared: the two training windows share most of their rows, and
would hide in each other what has changed. Distance: Kolmogorov and Smirnov's, the largest difference between two
distribution functions. It needs no bins and no scale, and for the label it is the difference between two shares of WIN,
so one number fits all.

Rows follow one another in time and are alike, across symbols too: a thousand of them may be worth no more than fifty
independent ones. How little is measured on the reference, in blocks as long as the new rows where it has twenty of
those: how much more the shares of the blocks differ than those of independent rows (the design effect; Kish, Survey
Sampling, 1965). The limit holds for effective numbers of rows, widened for the few blocks (Student's t), and divided
among all that is compared (Bonferroni), so that `drift_alpha` is the chance of any false alarm in one audit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker import statistics
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.audit_rules.rule import EXAMPLES, LABELLED, finding, safe_name, warning_if
from retrain_worker.worker.data.features import column_of
from retrain_worker.worker.data.instants import in_words
from retrain_worker.worker.data.outcomes import WIN
from retrain_worker.worker.data.snapshot import Snapshot, frame_of

Floats = npt.NDArray[np.float32]

#: new rows under which nothing is compared
_MIN_NEW_ROWS = 50
#: blocks that the reference is cut into at least; fewer do not show how blocks differ
_MIN_BLOCKS = 20
_MIN_BLOCK_ROWS = 10
_MIN_REFERENCE_ROWS = _MIN_BLOCKS * _MIN_BLOCK_ROWS
#: where the distribution functions are evaluated to measure the design effect
_SHARES = np.linspace(0.1, 0.9, 9)
_REMEDY = "a changed market is a reason to retrain, a changed service is not: check which it is"

_reference = partial(finding, "drift.reference")


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One comparison."""

    #: 0 = the same distribution, 1 = no value in common
    distance: float
    #: the distance over which it is called drift
    limit: float
    #: the number of independent rows that the new rows are worth
    effective_rows: float


def drift_findings(snapshot: Snapshot, reference_dir: Path | None, policy: DataPolicy) -> list[Finding]:
    """Findings drift.*. `reference_dir`: the folder of the last promoted run, None = there was none."""
    if reference_dir is None:
        return [_reference(Severity.OK, "no run was promoted yet, so there is nothing to compare with")]
    run = safe_name(reference_dir.name)
    try:
        reference = snapshots.load(reference_dir)
    except DataUnfitError as error:
        return [_reference(Severity.WARNING, f"drift since run {run} cannot be measured: {error.what}")]
    if not len(reference):
        return [_reference(Severity.WARNING, f"drift since run {run} cannot be measured: its snapshot holds no row")]
    newest = int(reference.decided_at.max())
    earlier = frame_of(reference).sort("decided_at", maintain_order=True)
    newer = frame_of(snapshot).filter(pl.col("decided_at") > newest).sort("decided_at", maintain_order=True)
    if len(newer) < _MIN_NEW_ROWS or len(earlier) < _MIN_REFERENCE_ROWS:
        text = (
            f"{len(newer):,} rows are newer than the newest of promoted run {run} ({in_words(newest)}), which has "
            f"{len(earlier):,}; drift is measured from {_MIN_NEW_ROWS} newer, {_MIN_REFERENCE_ROWS} earlier ones"
        )
        return [_reference(Severity.OK, text, measured=len(newer), limit=_MIN_NEW_ROWS)]
    compared = f"{len(newer):,} rows since promoted run {run} ({in_words(newest)}) against its {len(earlier):,}"
    pairs = [
        (f"drift.feature.{safe_name(name)}", safe_name(name), earlier[column_of(name)], newer[column_of(name)])
        for name in snapshot.feature_names
        if name in reference.feature_names
    ]
    is_win = (pl.col("outcome").filter(LABELLED) == WIN).cast(pl.Float32)
    wins, new_wins = (rows.select(is_win).to_series() for rows in (earlier, newer))
    if len(new_wins) >= _MIN_NEW_ROWS and len(wins) >= _MIN_REFERENCE_ROWS:
        before, since = (float(each.to_numpy().mean()) for each in (wins, new_wins))
        pairs.append(("drift.label", f"the share of WIN ({before:.1%} before, {since:.1%} since)", wins, new_wins))
    alpha = policy.drift_alpha / (len(snapshot.feature_names) + 1)
    found = [
        (name, words, drift_of(a.to_numpy(), b.to_numpy(), alpha=alpha, min_distance=policy.min_drift), len(b))
        for name, words, a, b in pairs
    ]
    return [_names(snapshot, reference, compared), *(_finding(*each) for each in found)]


def drift_of(earlier: Floats, newer: Floats, *, alpha: float, min_distance: float) -> Drift:
    """Both float32[n] in time order; `alpha`: the chance to find a distance over the limit where nothing has changed.

    Values of which there are only 0 and 1 are compared by their mean, which is then the same as the distance.
    """
    is_share = bool(np.isin(earlier, (0.0, 1.0)).all() and np.isin(newer, (0.0, 1.0)).all())
    effect, blocks = design_effect(earlier, rows=len(newer))
    weight = effect / len(earlier) + effect / len(newer)
    if is_share:
        share = float(np.concatenate([earlier, newer]).mean())
        distance = abs(float(newer.mean()) - float(earlier.mean()))
        width = statistics.student_t(alpha / 2, blocks - 1) * math.sqrt(share * (1.0 - share))
    else:
        distance = statistics.distance(earlier, newer)[0]
        few_blocks = statistics.student_t(alpha / 2, blocks - 1) / -special.ndtri(alpha / 2)
        width = float(special.kolmogi(alpha) * few_blocks)
    limit = min(1.0, max(min_distance, width * math.sqrt(weight)))
    return Drift(distance=distance, limit=limit, effective_rows=len(newer) / effect)


def design_effect(values: Floats, *, rows: int) -> tuple[float, int]:
    """How many times more a share of `rows` consecutive values varies than of independent ones; from how many blocks.

    At least 1: rows that balance each other are not taken for more than they are.
    """
    length = max(_MIN_BLOCK_ROWS, min(rows, len(values) // _MIN_BLOCKS))
    blocks = len(values) // length
    recent = values[len(values) - blocks * length :]
    between = within = 0.0
    for limit in np.unique(np.quantile(values, _SHARES)):
        shares = (recent <= limit).reshape(blocks, length).mean(axis=1)
        share = float(shares.mean())
        between += float(shares.var(ddof=1)) * length
        within += share * (1.0 - share)
    return (max(1.0, between / within) if within else 1.0), blocks


def _finding(name: str, words: str, drift: Drift, rows: int) -> Finding:
    text = (
        f"{words} differs by {drift.distance:.3f} (a warning over {drift.limit:.3f}: {rows:,} new rows tell as much as "
        f"{drift.effective_rows:,.0f} independent ones)"
    )
    return finding(
        name,
        warning_if(drift.distance > drift.limit),
        text,
        measured=drift.distance,
        limit=drift.limit,
        subject=name.removeprefix("drift.").removeprefix("feature."),
        counts={"count": rows},
        remedy=_REMEDY,
    )


def _names(snapshot: Snapshot, reference: Snapshot, compared: str) -> Finding:
    """Which rows are compared, and whether they have the same features."""
    gone = [safe_name(name) for name in reference.feature_names if name not in snapshot.feature_names]
    new = [safe_name(name) for name in snapshot.feature_names if name not in reference.feature_names]
    changes = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(new)}"] * bool(new)
    text = f"the features are not those of the promoted run: now {', '.join(changes)}; compared are " if changes else ""
    return _reference(
        warning_if(bool(changes)),
        f"{text}{compared}",
        measured=len(gone) + len(new),
        limit=0,
        examples=(*gone, *new)[:EXAMPLES],
    )
