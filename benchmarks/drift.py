"""False alarms and power of the audit's drift findings: `python benchmarks/drift.py`.

Demo markets without a change of regime: a reference snapshot and the later rows, read as in a run. Each line counts
audits with at least one warning among all features and the label. For comparison: the two-sample Kolmogorov-Smirnov
test at the same alpha, which assumes independent rows. Then a feature of the newer rows is shifted by a known number of
its standard deviations. About 4 minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from scipy import stats

from retrain_worker.demo.market import write_market
from retrain_worker.demo.regime import Regime
from retrain_worker.domain.audit_findings import Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.worker.data.audit_rules.drift import drift_findings
from retrain_worker.worker.data.instants import to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.snapshot import ARRAYS, Snapshot, save
from retrain_worker.worker.data.source import read_pages

END = datetime(2026, 1, 10, tzinfo=UTC)
#: (name, rows of the reference, newer rows, regime). Slow: spells of 250 and 170 rows per symbol instead of 33 and 22
WORLDS = (
    ("6,000 rows, 300 newer", 6_000, 300, Regime()),
    ("6,000 rows, 1,500 newer", 6_000, 1_500, Regime()),
    ("6,000 rows, 6,000 newer", 6_000, 6_000, Regime()),
    ("20,000 rows, 1,000 newer", 20_000, 1_000, Regime()),
    ("20,000 rows, 4,000 newer, slow regimes", 20_000, 4_000, Regime(turns_good=0.006, turns_bad=0.004)),
)
SHIFTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="markets per line (default 100)")
    parser.add_argument("--shift-seeds", type=int, default=25)
    asked = parser.parse_args()
    # no minimal distance: the statistical limit is measured
    policy = DataPolicy(min_drift=0.0)
    print(
        f"| market without drift | audits | false alarms at alpha {policy.drift_alpha:g} | with MIN_DRIFT=0.1 | rows "
        "taken as independent |\n|---|---|---|---|---|"
    )
    for name, earlier, newer, law in WORLDS:
        counts = np.zeros(3, dtype=int)
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                reference, snapshot = world(Path(folder), seed=seed, earlier=earlier, newer=newer, law=law)
                counts += [
                    alarms(snapshot, Path(folder), policy),
                    alarms(snapshot, Path(folder), DataPolicy()),
                    naive_alarm(snapshot, reference, policy.drift_alpha),
                ]
        shares = " | ".join(f"{count / asked.seeds:.1%}" for count in counts)
        print(f"| {name} | {asked.seeds} | {shares} |", flush=True)
    print(
        "\n| shift of one feature, standard deviations | "
        + " | ".join(f"{shift:g}" for shift in SHIFTS)
        + " |\n|---|"
        + "---|" * len(SHIFTS)
    )
    for name, earlier, newer, law in WORLDS[:3]:
        found = np.zeros(len(SHIFTS), dtype=int)
        for seed in range(asked.shift_seeds):
            with tempfile.TemporaryDirectory() as folder:
                _, snapshot = world(Path(folder), seed=seed, earlier=earlier, newer=newer, law=law)
                found += [alarms(shifted(snapshot, shift), Path(folder), DataPolicy()) for shift in SHIFTS]
        print(
            f"| found: {name} | " + " | ".join(f"{count / asked.shift_seeds:.0%}" for count in found) + " |", flush=True
        )


def world(folder: Path, *, seed: int, earlier: int, newer: int, law: Regime) -> tuple[Snapshot, Snapshot]:
    """(the reference, saved in `folder`; the snapshot with the newer rows) of a market without a change of regime."""
    database = folder / "market.db"
    write_market(
        database, seed=seed, end=END, rows=earlier + newer, open_rows=0, days=60.0, contradictions=0, regime=law
    )
    intake = Intake(DataPolicy(), now=to_microseconds(END + timedelta(days=1)))
    for page in read_pages(f"sqlite:///{database}", busy_timeout_seconds=5.0):
        intake.add(page)
    snapshot = intake.snapshot()
    cut = np.sort(snapshot.decided_at)[-newer - 1]
    reference = chosen(snapshot, snapshot.decided_at <= cut)
    save(reference, folder)
    return reference, snapshot


def chosen(snapshot: Snapshot, rows: np.ndarray) -> Snapshot:
    return replace(snapshot, **{name: getattr(snapshot, name)[rows] for name in ARRAYS})


def shifted(snapshot: Snapshot, deviations: float) -> Snapshot:
    """The first feature shifted in all rows; the reference is a separate snapshot."""
    features = snapshot.features.copy()
    features[:, 0] += deviations * features[:, 0].std()
    return replace(snapshot, features=features)


def alarms(snapshot: Snapshot, folder: Path, policy: DataPolicy) -> bool:
    return any(found.severity is Severity.WARNING for found in drift_findings(snapshot, folder, policy))


def naive_alarm(snapshot: Snapshot, reference: Snapshot, alpha: float) -> bool:
    is_new = snapshot.decided_at > reference.decided_at.max()
    samples: Sequence[tuple[np.ndarray, np.ndarray]] = [
        (reference.features[:, place], snapshot.features[is_new, place]) for place in range(snapshot.features.shape[1])
    ]
    samples = [*samples, (reference.outcome, snapshot.outcome[is_new])]
    return any(stats.ks_2samp(*pair, method="asymp").pvalue < alpha / len(samples) for pair in samples)


if __name__ == "__main__":
    main()
