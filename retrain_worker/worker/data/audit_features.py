"""What the audit says of the features: names, constants, scale, and whether one of them gives the outcome away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.worker.data.audit_labels import EXAMPLES, safe_name
from retrain_worker.worker.data.outcomes import LOSS, WIN
from retrain_worker.worker.data.snapshot import Snapshot

Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

#: as so many codes a feature is looked at, when it has more values
_CODES = 200
#: stretches of time, each either learnt from or measured on
_BLOCKS = 10
#: a feature whose values reach further than this was hardly meant so
_HUGE = 1e6
#: share of rows that repeat the row before them; more looks like a feed that stands still
_FROZEN_SHARE = 0.5


def feature_findings(snapshot: Snapshot, policy: DataPolicy) -> list[Finding]:
    """Findings features.*."""
    if not len(snapshot):
        return []
    return [
        _leak(snapshot, policy),
        _constant(snapshot),
        _names(snapshot),
        _converted(snapshot),
        _scale(snapshot),
        _frozen(snapshot),
    ]


def _names_of(snapshot: Snapshot) -> list[str]:
    return [safe_name(name) for name in snapshot.feature_names]


def _leak(snapshot: Snapshot, policy: DataPolicy) -> Finding:
    """AUC of each feature's last value alone: one that was made from the outcome decides it, no market feature does."""
    labelled = (snapshot.outcome == WIN) | (snapshot.outcome == LOSS)
    is_win = snapshot.outcome[labelled] == WIN
    limit = policy.max_single_feature_auc
    if is_win.all() or not is_win.any():
        return Finding(
            name="features.leak",
            severity=Severity.WARNING,
            limit=limit,
            message="with fewer than two classes nothing can be said about leaks",
        )
    names = _names_of(snapshot)
    in_time = np.argsort(snapshot.decided_at[labelled], kind="stable")
    is_win, columns = is_win[in_time], [snapshot.features[labelled, place][in_time] for place in range(len(names))]
    aucs = [float(roc_auc_score(is_win, values)) for values in columns]
    coded = [_auc_of_codes(values, is_win) for values in columns]
    strength = [max(auc, 1.0 - auc, code) for auc, code in zip(aucs, coded, strict=True)]
    strongest = int(np.argmax(strength))
    leaks = [names[place] for place, each in enumerate(strength) if each >= limit]
    message = (
        f"the strongest single feature is {names[strongest]} with an AUC of {aucs[strongest]:.3f} by its order, "
        f"{coded[strongest]:.3f} by its values as codes (a leak from {limit:g}, or {1 - limit:.2g} and under)"
    )
    if leaks:
        message += f": {', '.join(leaks)} knows the outcome; set FEATURE_NAMES without it, or mend what computes it"
    return Finding(
        name="features.leak",
        severity=Severity.REFUSAL if leaks else Severity.OK,
        message=message,
        measured=strength[strongest],
        limit=limit,
        examples=tuple(f"{name} {auc:.3f}, {code:.3f}" for name, auc, code in zip(names, aucs, coded, strict=True))[
            :EXAMPLES
        ],
    )


def _auc_of_codes(values: Float32s, is_win: Bools) -> float:
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
    return float(roc_auc_score(measured, share[codes[~is_learnt]]))


def _constant(snapshot: Snapshot) -> Finding:
    is_constant = (snapshot.features == snapshot.features[0]).all(axis=0)
    constant = [name for name, is_one in zip(_names_of(snapshot), is_constant, strict=True) if is_one]
    severity = Severity.WARNING if constant else Severity.OK
    if not constant:
        message = "every feature varies"
    elif len(constant) == len(snapshot.feature_names):
        severity = Severity.REFUSAL
        message = "every feature has one value in all rows: there is nothing to learn from; look at what computes them"
    else:
        message = f"{', '.join(constant)} has one value in all rows and tells nothing; look at what computes it"
    return Finding(name="features.constant", severity=severity, message=message, measured=len(constant), limit=0)


def _names(snapshot: Snapshot) -> Finding:
    noted, left_out = snapshot.facts.noted, snapshot.facts.features_left_out
    said = []
    if noted.get("features_assumed"):
        said.append(f"{noted['features_assumed']:,} rows do not name their values, which are taken by position")
    if noted.get("features_permuted"):
        said.append(f"{noted['features_permuted']:,} rows name them in another order and were put in order")
    if left_out:
        names = ", ".join(f"{safe_name(name)} ({rows:,} rows)" for name, rows in sorted(left_out.items()))
        said.append(f"not every row has {names}, so this is not trained on")
    message = f"{len(snapshot.feature_names)} features: {', '.join(_names_of(snapshot))}"
    return Finding(
        name="features.names",
        severity=Severity.WARNING if said else Severity.OK,
        measured=len(snapshot.feature_names),
        message="; ".join([message, *said]),
    )


def _converted(snapshot: Snapshot) -> Finding:
    rows = snapshot.facts.noted.get("features_converted", 0)
    return Finding(
        name="features.converted",
        severity=Severity.WARNING if rows else Severity.OK,
        measured=rows,
        limit=0,
        message=f"{rows:,} rows write a number as text" + ("; it was converted" if rows else ""),
    )


def _scale(snapshot: Snapshot) -> Finding:
    reach = np.maximum(np.abs(snapshot.features.max(axis=0)), np.abs(snapshot.features.min(axis=0)))
    reaches = zip(_names_of(snapshot), reach.tolist(), strict=True)
    huge = [f"{name} (up to {value:.3g})" for name, value in reaches if value > _HUGE]
    message = f"no feature reaches beyond {_HUGE:g}"
    if huge:
        message = f"beyond {_HUGE:g}: {', '.join(huge)}; look at the unit, and that the engine gets the same"
    return Finding(
        name="features.scale",
        severity=Severity.WARNING if huge else Severity.OK,
        message=message,
        measured=float(reach.max()),
        limit=_HUGE,
    )


def _frozen(snapshot: Snapshot) -> Finding:
    same = np.diff(snapshot.symbol_codes) == 0
    repeated = same & (snapshot.features[1:] == snapshot.features[:-1]).all(axis=1)
    share = float(repeated.sum() / max(1, same.sum()))
    return Finding(
        name="features.frozen",
        severity=Severity.WARNING if share > _FROZEN_SHARE else Severity.OK,
        measured=share,
        limit=_FROZEN_SHARE,
        message=f"{share:.1%} of rows repeat the features of the row before them (a warning over {_FROZEN_SHARE:.0%})",
    )
