"""The request to a worker to log a run to an MLflow server."""

from __future__ import annotations

from dataclasses import dataclass

from retrain_worker.domain.lifecycle import Run


@dataclass(frozen=True, kw_only=True)
class MlflowRequest:
    """Log this run, with its page if that exists, and its model if that was promoted."""

    run: Run
    report_path: str


@dataclass(frozen=True, kw_only=True)
class MlflowResult:
    """The run of MLflow."""

    mlflow_run_id: str
