"""Records external changes of PATCHTST_MODEL_PATH, each once."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from retrain_worker.domain import events
from retrain_worker.domain.lifecycle import Run
from retrain_worker.domain.problem import Problem, ProblemKind, problem_of
from retrain_worker.errors import RetrainError, StateError
from retrain_worker.stages import external_change
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.rolled_back_run import rolled_back_run

log = structlog.get_logger()


class SlotWatch:
    """Checks the engine's slot at every pass of the run driver."""

    def __init__(self, on_rollback: Callable[[Run], object] = lambda _run: None) -> None:
        """`on_rollback` gets each run that an external change rolls back."""
        self._on_rollback = on_rollback
        self._problem: Problem | None = None
        #: what the env line named at the last check, where no deployment has recorded it
        self._unrecorded_path: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether no change has been found that the next check is to confirm."""
        return self._unrecorded_path is None

    def check(self, context: StageContext) -> None:
        """Record an external change that two checks in a row have found, because some editors write in parts.

        A slot that cannot be read is logged once. Raises StateError.
        """
        problem = None
        try:
            self._record_change(context)
        except StateError:
            raise
        except RetrainError as error:
            self._unrecorded_path, problem = None, problem_of(error, kind=ProblemKind.SLOT)
        if problem is not None and problem != self._problem:
            log.warning("slot_problem", message=f"engine slot: {problem.message}")
        self._problem = problem

    def _record_change(self, context: StageContext) -> None:
        found = external_change.unrecorded(context)
        before, self._unrecorded_path = self._unrecorded_path, found.model_path if found else None
        if found is None or found.model_path != before:
            return
        is_first = context.store.last_deployment() is None
        event = events.changed_externally(found, shadow_only=context.slot.is_shadow_only(), at=found.created_at)
        run = rolled_back_run(found, context)
        context.store.record_deployment(found, events=() if is_first else (event,), run=run)
        self._unrecorded_path = None
        named = found.model_path or "no model"
        message = (
            f"incumbent: PATCHTST_MODEL_PATH names {named}"
            if is_first
            else f"PATCHTST_MODEL_PATH was changed externally: it names {named} (was {found.previous_model_path})"
        )
        write = log.info if is_first else log.warning
        write(
            "slot_changed_externally",
            message=f"{message}; {found.confirmation}",
            version=found.version,
            sha256=found.sha256,
        )
        if run is not None:
            self._on_rollback(run)
