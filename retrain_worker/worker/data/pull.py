"""PULL: read the table once and freeze the training window as the run's snapshot and its watermark."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.worker_protocol import Progress, PullRequest, PullResult
from retrain_worker.worker.data import fingerprints
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data.instants import to_datetime, to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.outcomes import LOSS, NEUTRAL, OPEN, WIN, contradictions
from retrain_worker.worker.data.rows import ChangedWhileReadError
from retrain_worker.worker.data.snapshot import Snapshot
from retrain_worker.worker.data.source import read_pages

Report = Callable[[Progress], None]

_REPORT_EVERY_ROWS = 100_000


def pull(request: PullRequest, database_url: str, report: Report) -> PullResult:
    """Write `run_dir/snapshot` and `run_dir/fingerprints.npy`, and say what they hold.

    Raises DatabaseUnreachableError, DatabaseBusyError, SourceUnfitError (see rows.py), DiskFullError.
    """
    run_dir = Path(request.run_dir)
    snapshot = read_window(
        request.policy,
        database_url,
        now=to_microseconds(datetime.fromisoformat(request.now)),
        busy_timeout_seconds=request.busy_timeout_seconds,
        report=report,
    )
    report(Progress(message=f"pull {request.run_id}: {len(snapshot):,} rows read", fields={"rows": len(snapshot)}))
    snapshots.save(snapshot, run_dir)
    watermark_path = run_dir / fingerprints.FILE_NAME
    fingerprints.save(fingerprints.fingerprints_of(snapshot), watermark_path)
    seen = _seen(request.watermark_path, report)
    return _result(snapshot, new_labelled=fingerprints.count_new(snapshot, seen), watermark_path=watermark_path)


def read_window(
    policy: DataPolicy, database_url: str, *, now: int, busy_timeout_seconds: float, report: Report
) -> Snapshot:
    """The rows of the training window as the table has them, nothing frozen. `now` in microseconds."""

    def read() -> Snapshot:
        return _read_through(Intake(policy, now=now), database_url, busy_timeout_seconds, report)

    try:
        return read()
    except ChangedWhileReadError:
        # the writer that came has made the -wal file by now, so the second reading goes through it
        return read()


def _read_through(intake: Intake, database_url: str, busy_timeout_seconds: float, report: Report) -> Snapshot:
    told = 0
    # rows and JSON make no reference cycles, and looking for some costs a twentieth of the time
    gc.disable()
    try:
        for page in read_pages(database_url, busy_timeout_seconds=busy_timeout_seconds):
            intake.add(page)
            if intake.loaded >= told + _REPORT_EVERY_ROWS:
                told = intake.loaded
                report(Progress(message=f"reading rows: {told:,} so far", fields={"rows": told}))
    finally:
        gc.enable()
    return intake.snapshot()


def _seen(watermark_path: str | None, report: Report) -> fingerprints.Fingerprints | None:
    """The watermark, or None when there is none. One that cannot be read makes every labelled row new."""
    if watermark_path is None:
        return None
    try:
        return fingerprints.load(Path(watermark_path))
    except (OSError, ValueError) as error:
        report(Progress(message=f"the watermark cannot be read ({error}): every labelled row counts as new"))
        return None


def _result(snapshot: Snapshot, *, new_labelled: int, watermark_path: Path) -> PullResult:
    outcomes = {code: int((snapshot.outcome == code).sum()) for code in (WIN, LOSS, NEUTRAL, OPEN)}
    rows_of = np.bincount(snapshot.symbol_codes, minlength=len(snapshot.symbols))
    instants = snapshot.decided_at
    return PullResult(
        loaded=snapshot.facts.loaded,
        labelled=outcomes[WIN] + outcomes[LOSS],
        win=outcomes[WIN],
        loss=outcomes[LOSS],
        neutral=outcomes[NEUTRAL],
        open=outcomes[OPEN],
        new_labelled=new_labelled,
        quarantined={reason: count for reason, count in snapshot.facts.quarantined.items() if count},
        contradictions=int(contradictions(snapshot.recorded_outcome, snapshot.pnl).sum()),
        symbols=dict(zip(snapshot.symbols, rows_of.tolist(), strict=True)),
        feature_names=snapshot.feature_names,
        first_at=to_datetime(int(instants.min())).isoformat() if len(instants) else None,
        last_at=to_datetime(int(instants.max())).isoformat() if len(instants) else None,
        data_sha256=snapshot.data_sha256,
        watermark_path=str(watermark_path),
    )
