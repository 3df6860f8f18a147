"""Which rows a run reads, and the limits of the audit."""

from __future__ import annotations

from dataclasses import dataclass

from retrain_worker.domain.labels import Label, LabelConflict


@dataclass(frozen=True, kw_only=True)
class DataPolicy:
    """The training window and the limits of the audit."""

    #: days before the newest labelled row; 0: every row
    train_window_days: int = 180
    #: smallest number of newly labelled rows for a run
    min_new_samples: int = 100
    #: smallest number of labelled rows
    min_samples: int = 1000
    #: smallest number of labelled rows of the minority class
    min_class_samples: int = 200
    #: share of the minority class below which the data is refused
    min_class_share: float = 0.10
    label: Label = Label.OUTCOME
    label_conflict: LabelConflict = LabelConflict.DROP
    #: share of labelled rows whose class contradicts realized_pnl, and of known outcomes whose class is none of the
    #: three words, above which the data is refused
    max_contradiction_share: float = 0.05
    #: share of unusable rows (undecodable features, impossible times ...) above which the data is refused
    max_quarantine_share: float = 0.10
    #: AUC of one feature alone (or 1 - AUC) from which it counts as a leak of the outcome
    max_single_feature_auc: float = 0.95
    #: longest gap in hours between two rows of a window; 0: no limit
    max_gap_hours: float = 48.0
    #: age of the newest labelled row in hours above which the audit warns; 0: never
    warn_staleness_hours: float = 72.0
    #: probability of any false alarm about drift in one audit
    drift_alpha: float = 0.01
    #: smallest distance that counts as drift (Kolmogorov-Smirnov; for the label, between two shares of WIN)
    min_drift: float = 0.1
    #: names of the features; empty: those that every usable row has
    feature_names: tuple[str, ...] = ()
