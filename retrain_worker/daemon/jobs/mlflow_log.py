"""Logs each ended run, and each promoted model, to the MLflow server of MLFLOW_TRACKING_URI, by a worker process."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.jobs.new_outcomes import NewOutcomes
from retrain_worker.daemon.one_off_task import log_to_mlflow
from retrain_worker.domain.mlflow_request import MlflowRequest
from retrain_worker.errors import RetrainError

log = structlog.get_logger()

#: passes after which a server that fails is given up for one outcome
_MAX_ATTEMPTS = 10


class MlflowLog:
    """Runs every thirty seconds."""

    def __init__(
        self, store: StateDb, folders: ArtifactStore, *, tracking_uri: str, is_stopping: Callable[[], bool]
    ) -> None:
        self._outcomes = NewOutcomes(store, "mlflow_logged")
        self._folders, self._tracking_uri, self._is_stopping = folders, tracking_uri, is_stopping
        #: of the oldest outcome
        self._num_attempts = 0

    def run(self) -> None:
        """Log the oldest outcome that was not logged. A server that fails is a warning; the run is over and stored."""
        run = self._outcomes.oldest()
        if run is None:
            return
        self._num_attempts += 1
        request = MlflowRequest(run=run, report_path=str(self._folders.report_of(run.run_id)))
        try:
            log_to_mlflow(request, tracking_uri=self._tracking_uri, is_stopped=self._is_stopping)
        except RetrainError as error:
            is_given_up = self._num_attempts == _MAX_ATTEMPTS
            if not self._is_stopping() and (is_given_up or self._num_attempts == 1):
                will = "no further attempt for this outcome" if is_given_up else "retrying"
                message = f"run {run.run_id} {run.outcome}: cannot log to MLflow: {error}; {will}"
                log.warning("mlflow_not_logged", message=message, run_id=run.run_id)
            if not is_given_up:
                return
        self._outcomes.done(run)
        self._num_attempts = 0
