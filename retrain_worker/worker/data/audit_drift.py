"""What the audit says of drift: the rows since the last promoted run against the rows which that run had.

Only rows newer than the reference's newest are compared: the two training windows share most of their rows, and would
hide in each other what has changed. Distance: Kolmogorov and Smirnov's, the largest difference between two distribution
functions. It needs no bins and no scale, sees a shift as well as a spread, and for the label it is the difference
between two shares of WIN, so one number fits all. PSI's value depends on its bins and, without any drift, on the number
of rows.

Rows follow one another in time and are alike, across symbols too: a thousand of them may tell as little as fifty
independent ones. How little is measured on the reference, in blocks as long as the new rows where it has twenty of
those: how much more the blocks' shares differ than independent rows would let them (the design effect; Kish, Survey
Sampling, 1965). The limit holds for effective numbers of rows, widened for the few blocks (Student's t), and divided
among all that is compared (Bonferroni), so that `drift_alpha` is the chance of any false alarm in one audit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.audit_labels import EXAMPLES, safe_name
from retrain_worker.worker.data.instants import in_words
from retrain_worker.worker.data.outcomes import LOSS, WIN
from retrain_worker.worker.data.snapshot import Snapshot

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: new rows under which nothing is compared
_MIN_NEW_ROWS = 50
#: blocks that the reference is cut into at least; fewer say too little about how blocks differ
_MIN_BLOCKS = 20
_MIN_BLOCK_ROWS = 10
#: where the distribution functions are looked at to measure the design effect
_SHARES = np.linspace(0.1, 0.9, 9)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One comparison."""

    #: 0 = the same distribution, 1 = no value in common
    distance: float
    #: the distance over which it is called drift
    limit: float
    #: as many independent rows tell as much as the new rows do
    effective_rows: float


def drift_findings(snapshot: Snapshot, reference_dir: Path | None, policy: DataPolicy) -> list[Finding]:
    """Findings drift.*: none refuses. `reference_dir`: the folder of the last promoted run, None = there was none."""
    if reference_dir is None:
        return [_reference(Severity.OK, "no run was promoted yet: there is nothing to compare with")]
    run = safe_name(reference_dir.name)
    try:
        reference = snapshots.load(reference_dir)
    except DataUnfitError as error:
        return [_reference(Severity.WARNING, f"drift since run {run} cannot be measured: {error.what}")]
    if not len(reference):
        return [_reference(Severity.WARNING, f"drift since run {run} cannot be measured: its snapshot holds no row")]
    newest = int(reference.decided_at.max())
    is_new = np.asarray(snapshot.decided_at > newest)
    rows, blocks = int(is_new.sum()), len(reference) // _MIN_BLOCKS
    if rows < _MIN_NEW_ROWS or blocks < _MIN_BLOCK_ROWS:
        return [
            _reference(
                Severity.OK,
                f"{rows:,} rows are newer than the newest of promoted run {run} ({in_words(newest)}), which has "
                f"{len(reference):,}; drift is told from {_MIN_NEW_ROWS} newer ones and "
                f"{_MIN_BLOCKS * _MIN_BLOCK_ROWS} earlier ones",
                measured=rows,
                limit=_MIN_NEW_ROWS,
            )
        ]
    words = f"{rows:,} rows since promoted run {run} ({in_words(newest)}) against its {len(reference):,}"
    return [
        _names(snapshot, reference, words),
        *_features(snapshot, reference, is_new, policy),
        *_label(snapshot, reference, is_new, policy),
    ]


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
        width = float(stats.t.isf(alpha / 2, blocks - 1)) * math.sqrt(share * (1.0 - share))
    else:
        distance = float(stats.ks_2samp(earlier, newer, method="asymp").statistic)
        few_blocks = stats.t.isf(alpha / 2, blocks - 1) / stats.norm.isf(alpha / 2)
        width = float(stats.kstwobign.isf(alpha) * few_blocks)
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


def _features(snapshot: Snapshot, reference: Snapshot, is_new: Bools, policy: DataPolicy) -> list[Finding]:
    """A finding for each feature that both have."""
    earlier_request = np.argsort(reference.decided_at, kind="stable")
    new_rows = np.flatnonzero(is_new)
    new_rows = new_rows[np.argsort(snapshot.decided_at[new_rows], kind="stable")]
    found = []
    for place, name in enumerate(snapshot.feature_names):
        if name not in reference.feature_names:
            continue
        drift = drift_of(
            reference.features[:, reference.feature_names.index(name)][earlier_request],
            snapshot.features[new_rows, place],
            alpha=_alpha(policy, snapshot),
            min_distance=policy.min_drift,
        )
        found.append(_finding(f"drift.feature.{safe_name(name)}", safe_name(name), drift, len(new_rows)))
    return found


def _label(snapshot: Snapshot, reference: Snapshot, is_new: Bools, policy: DataPolicy) -> list[Finding]:
    """WIN or LOSS of the labelled rows."""
    earlier, newer = _wins(reference, np.ones(len(reference), dtype=bool)), _wins(snapshot, is_new)
    if len(newer) < _MIN_NEW_ROWS or len(earlier) < _MIN_BLOCKS * _MIN_BLOCK_ROWS:
        return []
    drift = drift_of(earlier, newer, alpha=_alpha(policy, snapshot), min_distance=policy.min_drift)
    words = f"the share of WIN ({earlier.mean():.1%} before, {newer.mean():.1%} since)"
    return [_finding("drift.label", words, drift, len(newer))]


def _wins(snapshot: Snapshot, chosen: Bools) -> Floats:
    """float32[n], 1 = WIN, of the labelled rows among the chosen, in time order."""
    rows = np.flatnonzero(chosen & ((snapshot.outcome == WIN) | (snapshot.outcome == LOSS)))
    rows = rows[np.argsort(snapshot.decided_at[rows], kind="stable")]
    wins: Floats = (snapshot.outcome[rows] == WIN).astype(np.float32)
    return wins


def _alpha(policy: DataPolicy, snapshot: Snapshot) -> float:
    return policy.drift_alpha / (len(snapshot.feature_names) + 1)


def _finding(name: str, words: str, drift: Drift, rows: int) -> Finding:
    has_drifted = drift.distance > drift.limit
    message = (
        f"{words} differs by {drift.distance:.3f} (a warning over {drift.limit:.3f}: {rows:,} new rows tell as much as "
        f"{drift.effective_rows:,.0f} independent ones)"
    )
    if has_drifted:
        message += "; a market that has changed is a reason to retrain, a service that has changed is not: look which"
    return Finding(
        name=name,
        severity=Severity.WARNING if has_drifted else Severity.OK,
        message=message,
        measured=drift.distance,
        limit=drift.limit,
    )


def _names(snapshot: Snapshot, reference: Snapshot, words: str) -> Finding:
    """Which rows are compared, and whether they have the same features."""
    gone = [safe_name(name) for name in reference.feature_names if name not in snapshot.feature_names]
    new = [safe_name(name) for name in snapshot.feature_names if name not in reference.feature_names]
    if not gone and not new:
        return _reference(Severity.OK, f"compared: {words}", limit=0, measured=0)
    changes = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(new)}"] * bool(new)
    return _reference(
        Severity.WARNING,
        f"the features are not those of the promoted run: now {', '.join(changes)}; compared, as far "
        f"as both have them: {words}",
        measured=len(gone) + len(new),
        limit=0,
        examples=(*gone, *new)[:EXAMPLES],
    )


def _reference(
    severity: Severity,
    message: str,
    *,
    measured: float | None = None,
    limit: float | None = None,
    examples: tuple[str, ...] = (),
) -> Finding:
    return Finding(
        name="drift.reference", severity=severity, message=message, measured=measured, limit=limit, examples=examples
    )
