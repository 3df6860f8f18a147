"""Where the model of a run comes from: rows, hashes, versions, settings, the runs before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from math import isclose
from typing import Any

from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.lifecycle import Run
from retrain_worker.report.formatting import NOTHING, plain
from retrain_worker.report.overview import Overview, Pairs
from retrain_worker.worker.predictions_file import PredictionsInfo


def lineage(run: Run, seen: Overview, info: PredictionsInfo | None, *, previous_run_id: str) -> Pairs:
    """Name and text of each that is known."""
    facts = run.facts
    trained, promoted, pulled = facts.train, facts.promote, facts.pull
    found = (
        ("requested by", f"{run.requested_by}: {run.request_reason}"),
        ("started", run.created_at.isoformat()),
        ("finished", run.finished_at and run.finished_at.isoformat()),
        ("time", seen.seconds),
        ("previous run", previous_run_id),
        ("previous model", (promoted and promoted.previous_version) or (trained and trained.incumbent_path)),
        ("compared features", info and info.reference_run and f"those of run {info.reference_run}"),
        ("rows sha256", pulled and pulled.data_sha256),
        ("watermark", pulled and pulled.watermark_path),
        *((name, text) for name, text in seen.files),
        ("candidate sha256", trained and trained.sha256),
        ("event id", promoted and promoted.event_id),
        ("contract", _flat(asdict(trained.contract)) if trained else ""),
        ("versions", _flat(info.versions) if info else ""),
        ("changed settings", "; ".join(changed_settings(run)) if facts.gate or trained else ""),
    )
    return tuple((name, plain(value)) for name, value in found if value)


def changed_settings(run: Run) -> list[str]:
    """`min_samples 500 (default 1000)` for each field of the run's policies that differs; `none` without any."""
    policies: list[Any] = []
    if run.facts.train and run.facts.train.policies:
        found = run.facts.train.policies
        policies += [found.data, found.split, found.recipe]
    if run.facts.gate:
        # the levels of a verdict are those of one decision, which the alpha spending has determined
        policies.append(run.facts.gate.verdict.policy.spending(GatePolicy().skill_alpha))
    return [change for policy in policies for change in _changes(policy)] or ["none"]


def _changes(policy: Any) -> Iterator[str]:
    usual = type(policy)()
    for each in fields(policy):
        value, default = getattr(policy, each.name), getattr(usual, each.name)
        is_number = isinstance(value, float) and isinstance(default, float)
        if not (isclose(value, default) if is_number else value == default):
            yield f"{each.name} {_text(value)} (default {_text(default)})"


def _flat(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: object) -> str:
    if value is None or value == ():
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
