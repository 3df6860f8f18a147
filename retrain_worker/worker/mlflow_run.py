"""One run of this program as a run of MLflow: parameters, metrics, learning curves, page, the promoted model.

The tag `retrain_worker.run_id` makes it idempotent: a run that is logged again is updated.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from retrain_worker.domain.artifact import MODEL_NAME
from retrain_worker.domain.gates import Scorecard
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.domain.masking import masked
from retrain_worker.domain.mlflow_request import MlflowRequest, MlflowResult
from retrain_worker.errors import RetrainError, TrackingUnavailableError

EXPERIMENT = "retrain_worker"
RUN_ID_TAG = "retrain_worker.run_id"
#: the library would repeat a request for minutes; the daemon repeats the whole
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def log_run(request: MlflowRequest, tracking_uri: str) -> MlflowResult:
    """Log the run. Raises TrackingUnavailableError, whatever the library raises."""
    os.environ.update(_ENVIRONMENT)
    try:
        return MlflowResult(mlflow_run_id=_log(request, tracking_uri))
    except RetrainError:
        raise
    except Exception as error:
        cause = masked(f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}")
        raise TrackingUnavailableError(cause, where=masked(tracking_uri)) from error


def _log(request: MlflowRequest, tracking_uri: str) -> str:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    run, client = request.run, MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    found = client.search_runs([experiment_id], f"tags.`{RUN_ID_TAG}` = '{run.run_id}'", max_results=1)
    start = _milliseconds(run.created_at)
    mlflow_run = found[0] if found else client.create_run(experiment_id, start, {RUN_ID_TAG: run.run_id}, run.run_id)
    mlflow_id = str(mlflow_run.info.run_id)
    end = _milliseconds(run.finished_at or run.updated_at)
    client.log_batch(
        mlflow_id,
        metrics=[Metric(name, value, end, step) for name, value, step in _metrics(run)],
        params=[Param(name, str(value)[:500]) for name, value in _parameters(run).items()],
        tags=[RunTag("outcome", str(run.outcome)), RunTag("reasons", "; ".join(run.reasons)[:5000])],
    )
    if Path(request.report_path).is_file():
        client.log_artifact(mlflow_id, request.report_path)
    if run.outcome is Outcome.PROMOTED and run.facts.promote:
        _register(client, mlflow_run, run.facts.promote.version, run.facts.promote.model_path)
    client.set_terminated(mlflow_id, "FAILED" if run.outcome is Outcome.FAILED else "FINISHED", end)
    return mlflow_id


def _register(client: Any, mlflow_run: Any, version: str, model_path: str) -> None:
    """The model file as a version of the registered model `patchtst`, once."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL_NAME)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if any(each.run_id == mlflow_run.info.run_id for each in client.search_model_versions(f"name = '{MODEL_NAME}'")):
        return
    client.log_artifact(mlflow_run.info.run_id, model_path, "model")
    source = f"{mlflow_run.info.artifact_uri}/model"
    client.create_model_version(MODEL_NAME, source, mlflow_run.info.run_id, tags={"version": version})


def _parameters(run: Run) -> dict[str, object]:
    trained = run.facts.train
    known: dict[str, object] = {"requested_by": run.requested_by}
    if trained is not None:
        contract = {field.name: getattr(trained.contract, field.name) for field in fields(trained.contract)}
        known |= {**contract, "feature_names": ",".join(trained.contract.feature_names), "epochs": trained.epochs}
    return known


def _metrics(run: Run) -> list[tuple[str, float, int]]:
    """Name, value, step."""
    found: list[tuple[str, float | None, int]] = [
        (f"seconds_{stage}", spent, 0) for stage, spent in run.seconds.items()
    ]
    if run.facts.pull:
        found += [("rows", run.facts.pull.rows.loaded, 0), ("rows_labelled", run.facts.pull.rows.labelled, 0)]
    for epoch, *values in run.facts.train.history if run.facts.train else ():
        names = ("train_loss", "validation_log_loss", "validation_auc")
        found += [(name, value, epoch) for name, value in zip(names, values, strict=True)]
    cards = (run.facts.gate.candidate, run.facts.gate.incumbent) if run.facts.gate else ()
    for prefix, card in zip(("", "incumbent_"), cards, strict=False):
        found += _of_card(prefix, card)
    return [(name, float(value), step) for name, value, step in found if value is not None]


def _of_card(prefix: str, card: Scorecard | None) -> list[tuple[str, float | None, int]]:
    values = {field.name: getattr(card, field.name) for field in fields(Scorecard)} if card else {}
    return [(prefix + name, value, 0) for name, value in values.items() if isinstance(value, int | float)]


def _milliseconds(at: Any) -> int:
    return int(at.timestamp() * 1000)
