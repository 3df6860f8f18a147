"""PULL: read the table once and freeze the training window as the run's snapshot."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.worker_protocol import Progress, PullRequest, PullResult
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data import snapshot as snapshots
from retrain_worker.worker.data import watermark
from retrain_worker.worker.data.instants import to_datetime, to_microseconds
from retrain_worker.worker.data.intake import Intake
from retrain_worker.worker.data.outcomes import LOSS, NEUTRAL, OPEN, WIN, contradicts
from retrain_worker.worker.data.page import ChangedWhileReadError
from retrain_worker.worker.data.snapshot import Snapshot, frame_of
from retrain_worker.worker.data.source import hard_links, read_pages

Report = Callable[[Progress], None]

_LIBC = ctypes.CDLL(None)
_REPORT_EVERY_ROWS = 100_000


def pull(request: PullRequest, database_url: str, report: Report) -> PullResult:
    """Write the snapshot of this run into `run_dir`, and return what they hold.

    Raises DatabaseUnreachableError, DatabaseBusyError, SourceUnfitError (see source.py), DiskFullError.
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
    return _result(
        snapshot,
        new_labelled=_count_new(snapshot, request.watermark_path, report),
        watermark_path=run_dir / snapshots.FILE_NAME,
    )


def read_window(
    policy: DataPolicy, database_url: str, *, now: int, busy_timeout_seconds: float, report: Report
) -> Snapshot:
    """The rows of the training window as the table has them, nothing frozen. `now` in microseconds."""
    read = partial(_read_through, policy, database_url, now, busy_timeout_seconds, report)
    try:
        return read()
    except ChangedWhileReadError:
        # the writer has made the -wal file by now, so the second reading goes through it
        return read()


def _read_through(
    policy: DataPolicy, database_url: str, now: int, busy_timeout_seconds: float, report: Report
) -> Snapshot:
    intake, reported = Intake(policy, now=now), 0
    for page in read_pages(database_url, busy_timeout_seconds=busy_timeout_seconds):
        intake.add(page)
        _return_freed_memory()
        if intake.loaded >= reported + _REPORT_EVERY_ROWS:
            reported = intake.loaded
            report(Progress(message=f"reading rows: {reported:,} so far", fields={"rows": reported}))
    return intake.snapshot(hard_links=hard_links(database_url))


def _return_freed_memory() -> None:
    """Give the holes in the heap back: the driver's buffers leave as many as the rows that are kept need memory."""
    with suppress(AttributeError):  # not glibc
        _LIBC.malloc_trim(0)


def _count_new(snapshot: Snapshot, watermark_path: str | None, report: Report) -> int:
    """The newly labelled rows. A watermark that cannot be read makes every labelled row new."""
    try:
        return watermark.count_new(snapshot, Path(watermark_path) if watermark_path else None)
    except DataUnfitError as error:
        report(
            Progress(message=f"cannot read the watermark {watermark_path} ({error}); every labelled row counts as new")
        )
        return watermark.count_new(snapshot, None)


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
        contradictions=int(frame_of(snapshot).select(contradicts("recorded_outcome", "pnl").sum()).item()),
        symbols=dict(zip(snapshot.symbols, rows_of.tolist(), strict=True)),
        feature_names=snapshot.feature_names,
        first_at=to_datetime(int(instants.min())).isoformat() if len(instants) else None,
        last_at=to_datetime(int(instants.max())).isoformat() if len(instants) else None,
        data_sha256=snapshot.data_sha256,
        watermark_path=str(watermark_path),
    )
