"""Problems that last until something changes: a run without a usable result, an unconfirmed swap, a serving fault."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from retrain_worker.adapters.answer_tally import tally_in
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.serving_state import finding_of
from retrain_worker.domain.deployments import is_confirmed
from retrain_worker.domain.host_names import command
from retrain_worker.domain.problem import Problem, ProblemKind

#: the newest runs among which the last concluded one is looked for
_NUM_RUNS = 20


def lasting_problems(store: StateDb, *, now: datetime, max_row_age: timedelta) -> Iterator[Problem]:
    """Each problem of the last run, the current deployment and the engine's answers.

    `max_row_age`: of the newest row; zero: any age.
    """
    runs = store.history(limit=_NUM_RUNS)
    last = next((run for run in runs if run.is_concluded), None)
    if last is not None and last.needs_attention:
        yield Problem(
            kind=ProblemKind.DATABASE if last.is_data_refused else ProblemKind.JOB,
            subject=f"last run {last.outcome}",
            cause="; ".join(last.reasons[:1]),
            action=f"see {command()} {'audit' if last.is_data_refused else 'report'}",
        )
    pulled = next((run.facts.pull for run in runs if run.facts.pull is not None), None)
    if max_row_age and pulled is not None and pulled.last_at is not None and now - pulled.last_at > max_row_age:
        yield Problem(
            kind=ProblemKind.DATABASE,
            subject="trading database",
            cause=f"the newest row that was read is {(now - pulled.last_at) / timedelta(hours=1):.0f} h old "
            f"(WARN_STALENESS_H={max_row_age / timedelta(hours=1):g})",
            action="check which service writes ai_training_samples",
        )
    deployment = store.last_deployment()
    if deployment is not None and is_confirmed(deployment) is False:
        yield Problem(
            kind=ProblemKind.SLOT,
            subject=f"{deployment.version} not confirmed",
            cause=deployment.confirmation,
            action=f"restart the engine, or {command()} rollback",
        )
    finding = finding_of(store, tally_in(store))
    if finding.is_fault:
        yield Problem(kind=ProblemKind.SLOT, subject="engine", cause=finding.message)
