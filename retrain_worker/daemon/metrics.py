"""The state of the daemon as Prometheus metrics: names, descriptions and values (docs/reference/metrics.md).

Instants are Unix seconds, so that an age is `time() - metric`. What is not known has no sample.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily

from retrain_worker import __version__
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.configuration import Configuration
from retrain_worker.daemon.run_schedule import RunSchedule
from retrain_worker.daemon.serving_state import serving_fault
from retrain_worker.domain.deployments import is_confirmed
from retrain_worker.domain.gates import GateOutcome
from retrain_worker.domain.lifecycle import Outcome, Run, Stage

Value = float | bool | datetime | None

#: name without the prefix -> (what it is, its labels); docs/reference/metrics.md shows it
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "build_info": ("This program; always 1.", ("version", "python")),
    "leader": ("1: this process acts on the state; 0: it is a standby (STATE_URL).", ()),
    "current_run_stage": ("1: the run in progress is at this stage.", ("stage",)),
    "last_run_outcome": ("1: the last run ended like this.", ("outcome",)),
    "last_run_timestamp_seconds": ("The end of the last run.", ()),
    "last_run_stage_seconds": ("Wall seconds of each stage of the last run.", ("stage",)),
    "next_run_timestamp_seconds": ("When the next scheduled run is due; none during a pause.", ()),
    "newest_row_timestamp_seconds": ("Decision time of the newest row at the last read.", ()),
    "rows_loaded": ("Rows of the training window at the last read.", ()),
    "rows_labelled": ("Rows with a usable label at the last read.", ()),
    "holdout_auc": ("AUC on the holdout of the last run with gates; `model`: candidate, incumbent.", ("model",)),
    "holdout_auc_low": ("Lower confidence bound of this AUC.", ("model",)),
    "holdout_log_loss": ("Log loss on the same rows, in nats.", ("model",)),
    "gate_passed": (
        "1: the last run with gates passed this gate; 0: failed or undecided. Advisory gates are left out.",
        ("gate",),
    ),
    "trial_start_timestamp_seconds": ("Start of a shadow trial (`SHADOW`) or a probation (`PROBATION`).", ("stage",)),
    "trial_outcomes": ("Known outcomes of this trial or probation.", ("stage",)),
    "trial_log_loss_gain": (
        "In it, log loss of the other model minus that of this one: positive is better.",
        ("stage",),
    ),
    "slot_info": ("What PATCHTST_MODEL_PATH names; `kind`: promote, rollback, external.", ("version", "kind")),
    "slot_timestamp_seconds": ("The last change of PATCHTST_MODEL_PATH.", ()),
    "slot_confirmed": (
        "1: the engine was seen serving it; 0: it was not in time; none while that is not known or not expected.",
        (),
    ),
    "serving_fault": ("1: the engine's own answers contradict the model.", ()),
    "paused": ("1: promotions are paused.", ()),
    "events_pending": ("Events that wait for Redis.", ()),
    "oldest_pending_event_timestamp_seconds": ("The oldest of these events.", ()),
}

#: the newest runs among which the last one of each kind is looked for
_NUM_RUNS = 20


def metrics_of(store: StateDb, configuration: Configuration, schedule: RunSchedule) -> Iterator[GaugeMetricFamily]:
    """Every metric, from what is stored. Raises StateError and RetryLaterError of the state database."""
    yield _info("build_info", version=__version__, python=platform.python_version())
    yield leader_metric(is_leader=True)
    runs = store.history(limit=_NUM_RUNS)
    yield from _of_runs(runs)
    yield from _of_rows(runs)
    yield from _of_gates(runs)
    yield from _of_trials(store.waiting_runs())
    yield from _of_slot(store)
    yield _gauge("events_pending", store.num_pending())
    yield _gauge("oldest_pending_event_timestamp_seconds", store.oldest_pending_at())
    context = configuration.context
    at = context.now()
    yield _gauge("paused", context.pause is not None)
    next_at = None if schedule.is_held() else schedule.next_run_at(at)
    yield _gauge("next_run_timestamp_seconds", next_at)


def leader_metric(*, is_leader: bool) -> GaugeMetricFamily:
    """The one metric of a standby, too."""
    return _gauge("leader", is_leader)


def _of_runs(runs: Iterable[Run]) -> Iterator[GaugeMetricFamily]:
    current = next((run for run in runs if not run.is_concluded), None)
    stages = {str(stage): current is not None and current.stage is stage for stage in Stage}
    yield _gauges("current_run_stage", stages)
    last = next((run for run in runs if run.is_concluded), None)
    if last is None:
        return
    outcomes = {str(outcome): last.outcome is outcome for outcome in Outcome}
    yield _gauges("last_run_outcome", outcomes)
    yield _gauge("last_run_timestamp_seconds", last.finished_at or last.updated_at)
    yield _gauges("last_run_stage_seconds", last.seconds)


def _of_rows(runs: Iterable[Run]) -> Iterator[GaugeMetricFamily]:
    pulled = next((run.facts.pull for run in runs if run.facts.pull is not None), None)
    if pulled is not None:
        yield _gauge("newest_row_timestamp_seconds", pulled.last_at)
        yield _gauge("rows_loaded", pulled.rows.loaded)
        yield _gauge("rows_labelled", pulled.rows.labelled)


def _of_gates(runs: Iterable[Run]) -> Iterator[GaugeMetricFamily]:
    judged = next((run.facts.gate for run in runs if run.facts.gate is not None), None)
    if judged is None:
        return
    cards = {"candidate": judged.candidate, "incumbent": judged.incumbent}
    for name in ("auc", "auc_low", "log_loss"):
        values = {model: getattr(card, name) for model, card in cards.items() if card is not None}
        yield _gauges(f"holdout_{name}", values)
    passed = {gate.name: gate.result is GateOutcome.PASS for gate in judged.verdict.gates if gate.counts}
    yield _gauges("gate_passed", passed)


def _of_trials(runs: Iterable[Run]) -> Iterator[GaugeMetricFamily]:
    trials = {
        str(run.stage): trial
        for run in runs
        if (trial := run.facts.shadow if run.stage is Stage.SHADOW else run.facts.probation) is not None
    }
    yield _gauges("trial_start_timestamp_seconds", {stage: trial.since for stage, trial in trials.items()})
    yield _gauges("trial_outcomes", {stage: trial.num_outcomes for stage, trial in trials.items()})
    yield _gauges("trial_log_loss_gain", {stage: trial.log_loss_gain for stage, trial in trials.items()})


def _of_slot(store: StateDb) -> Iterator[GaugeMetricFamily]:
    last = store.last_deployment()
    if last is not None:
        yield _info("slot_info", version=last.version, kind=last.kind)
        yield _gauge("slot_timestamp_seconds", last.created_at)
        yield _gauge("slot_confirmed", is_confirmed(last))
    yield _gauge("serving_fault", bool(serving_fault(store)))


# ---------------------------------------------------------------- families


def _info(name: str, **labels: str) -> GaugeMetricFamily:
    family = _family(name)
    family.add_metric(tuple(labels.values()), 1)
    return family


def _gauge(name: str, value: Value) -> GaugeMetricFamily:
    return _gauges(name, {"": value})


def _gauges(name: str, values: Mapping[str, Value]) -> GaugeMetricFamily:
    """One sample per value that is known, labelled with its key where the metric has a label."""
    family = _family(name)
    for key, value in values.items():
        if value is not None:
            number = value.timestamp() if isinstance(value, datetime) else float(value)
            family.add_metric((key,) if METRICS[name][1] else (), number)
    return family


def _family(name: str) -> GaugeMetricFamily:
    text, labels = METRICS[name]
    return GaugeMetricFamily(f"retrain_worker_{name}", text, labels=labels)
