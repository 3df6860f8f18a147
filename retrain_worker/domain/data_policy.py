"""Which rows a run reads, and the limits that the audit holds them to."""

from __future__ import annotations

from dataclasses import dataclass

from retrain_worker.domain.labels import Label, LabelConflict


@dataclass(frozen=True, kw_only=True)
class DataPolicy:
    """Which rows are read, and how bad they may be."""

    #: days before the newest labelled row that are read; 0 = every row
    train_window_days: int = 180
    #: newly labelled rows that make a run worth while
    min_new_samples: int = 100
    #: labelled rows without which nothing is trained
    min_samples: int = 1000
    #: labelled rows that the rarer class must have
    min_class_samples: int = 200
    #: share of the rarer class under which the data is refused
    min_class_share: float = 0.10
    label: Label = Label.OUTCOME
    label_conflict: LabelConflict = LabelConflict.DROP
    #: share of labelled rows whose class contradicts realized_pnl, above which the data is refused
    max_contradiction_share: float = 0.05
    #: share of rows that cannot be used (undecodable features, impossible times ...), above which the data is refused
    max_quarantine_share: float = 0.10
    #: AUC of one feature alone (or 1 - AUC) from which it is taken for a leak of the outcome
    max_single_feature_auc: float = 0.95
    #: hours between two rows of a symbol over which no window runs; 0 = no limit
    max_gap_hours: float = 48.0
    #: age of the newest labelled row in hours over which a warning is given; 0 = never
    warn_staleness_hours: float = 72.0
    #: chance of any false alarm about drift in one audit
    drift_alpha: float = 0.01
    #: distance (Kolmogorov-Smirnov; for the label, between two shares of WIN) under which nothing is called drift
    min_drift: float = 0.1
    #: comma separated names; empty = the names that every usable row has
    feature_names: tuple[str, ...] = ()
