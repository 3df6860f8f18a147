"""The opened components of a process on a home of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from retrain_worker import settings
from retrain_worker.cli.options import prepare_home
from retrain_worker.daemon.service import jobs_of
from retrain_worker.daemon.wiring import Components, open_components
from retrain_worker.domain.lifecycle import Outcome


@contextmanager
def opened_components(home: Path, **environment: str) -> Iterator[Components]:
    loaded = settings.load({"RETRAIN_INTERVAL_H": "4", **environment}, home=home, db=str(home.parent / "none.db"))
    prepare_home(loaded)
    with open_components(loaded) as components:
        yield components


def one_pass(components: Components, job_name: str) -> None:
    next(job for job in jobs_of(components) if job.name == job_name).action()


def an_ended_run(components: Components, at: datetime) -> None:
    run, _ = components.store.open_run(requested_by="schedule", reason="test", at=at)
    components.store.record(run.ended(Outcome.FAILED, "test", at=at))
