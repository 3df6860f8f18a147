"""Pull and audit by themselves, in a folder that is thrown away: what `check` and `audit` need, outside any run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrain_worker.adapters.child_process import ChildProcesses
from retrain_worker.domain.handoff import AuditRequest, AuditResult, Broken, PullRequest, PullResult, Working
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.settings import Settings


def audit_source(settings: Settings, *, say: Callable[[str], None]) -> tuple[PullResult, AuditResult]:
    """What the source holds and whether it is fit to train on. Raises what the child raised."""
    now = datetime.now(UTC).isoformat()
    with tempfile.TemporaryDirectory(prefix="retrain-worker-audit-") as folder:
        children = ChildProcesses(database_url=str(settings.database_url), niceness=settings.child_nice,
                                  deadline_seconds=dict.fromkeys(Stage, settings.stage_deadline_minutes * 60))
        try:
            pulled: PullResult = _awaited(children, Stage.PULL, Path(folder), PullRequest(
                run_id="audit", run_dir=folder, policy=settings.data, watermark_path=None, now=now), say)
            audited: AuditResult = _awaited(children, Stage.AUDIT, Path(folder), AuditRequest(
                run_id="audit", run_dir=folder, policy=settings.data, now=now), say)
        finally:
            children.stop(1.0)
    return pulled, audited


def _awaited(children: ChildProcesses, stage: Stage, folder: Path, request: Any, say: Callable[[str], None]) -> Any:
    said = ""
    while isinstance(answer := children.result_of(stage, folder, request), Working):
        if answer.sentence != said:
            said = answer.sentence
            say(said)
        time.sleep(0.05)
    if isinstance(answer, Broken):
        raise answer.error
    return answer.result
