"""In-memory ports: the same questions, answered from memory, so that stages can be tested without a world."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retrain_worker.domain.audit import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import Done, VerifyResult
from retrain_worker.errors import ArtifactError, SlotError
from retrain_worker.stages.ports import Policies, StageContext

NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@dataclass
class FakeStore:
    """ports.RunStore in memory; every record is kept, in order."""

    runs: dict = field(default_factory=dict)
    deployments: dict = field(default_factory=dict)
    events: list = field(default_factory=list)
    records: list = field(default_factory=list)
    watermark: Path | None = None
    slot_requests: dict = field(default_factory=dict)
    #: ids of deployments, in the order in which they reached the env line
    reached: list = field(default_factory=list)
    spending: Any = None
    #: sha256 -> why it is never promoted again
    blocked_sha256s: dict = field(default_factory=dict)

    def unfinished_run(self):
        return next((run for run in self.runs.values() if not run.is_finished and not run.is_waiting), None)

    def waiting_runs(self):
        return [run for run in self.runs.values() if run.is_waiting]

    def run(self, run_id):
        return self.runs.get(run_id)

    def blocked(self, sha256):
        return self.blocked_sha256s.get(sha256)

    def record(self, run, *, events=(), deployment=None, request=None, watermark_path=None):
        self.records.append((run, tuple(events), deployment, watermark_path))
        self.runs[run.run_id] = run
        if watermark_path is not None:
            self.watermark = watermark_path
        if request is not None:
            self.slot_requests[request.request_id] = request
        self.record_deployment(deployment, events=events)

    def record_deployment(self, deployment, *, events=()):
        known = {event.event_id for event in self.events}
        self.events.extend(event for event in events if event.event_id not in known)
        if deployment is not None:
            self.deployments[deployment.deployment_id] = deployment
            if deployment.state not in ("INTENDED", "UNDONE") and deployment.deployment_id not in self.reached:
                self.reached.append(deployment.deployment_id)

    def record_slot_request(self, request, *, deployment=None, events=(), run=None):
        if run is not None:
            self.runs[run.run_id] = run
        self.slot_requests[request.request_id] = request
        self.record_deployment(deployment, events=events)

    def request(self, request_id):
        return self.slot_requests.get(request_id)

    def waiting_slot_request(self):
        return next((request for request in self.slot_requests.values() if not request.is_answered), None)

    def deployment(self, deployment_id):
        return self.deployments.get(deployment_id)

    def last_deployment(self):
        return self.deployments[self.reached[-1]] if self.reached else None

    def reached_deployments(self):
        return [self.deployments[deployment_id] for deployment_id in self.reached]

    def intended_deployments(self):
        return [one for one in self.deployments.values() if one.state == "INTENDED"]

    def last_promotion(self):
        promotions = [
            one
            for one in self.deployments.values()
            if one.kind == "promote" and one.run_id and one.state not in ("INTENDED", "UNDONE")
        ]
        return max(promotions, key=lambda one: one.updated_at, default=None)

    def watermark_path(self):
        return self.watermark

    def alpha_spending_before(self, run_id):
        return self.spending


@dataclass
class FakeWorkers:
    """ports.Workers: answers each stage from a table."""

    answers: dict[str, Any] = field(default_factory=dict)
    requests: list = field(default_factory=list)

    def result_of(self, stage, run_dir, request):
        self.requests.append((stage, request))
        answer = self.answers[stage]
        return answer(request) if callable(answer) else answer


@dataclass
class FakeSlot:
    """ports.Slot: an env line and a directory, in memory."""

    named: Path | None = Path("/engine/patchtst_v20260109_233444.pth")
    shadow_only: bool = True
    published: list = field(default_factory=list)
    triggered: list = field(default_factory=list)
    fault: SlotError | None = None
    #: path -> its hash, where it matters; None: the file is not there
    hashes: dict = field(default_factory=dict)

    def current_path(self):
        return self.named

    def is_shadow_only(self):
        return self.shadow_only

    def publish(self, candidate, *, expected_sha256):
        if self.fault:
            raise self.fault
        self.published.append(candidate)
        return candidate

    def sha256_of(self, model):
        return self.hashes.get(str(model), "a" * 64)

    def check_ready(self, model, *, expected_sha256):
        if self.sha256_of(model) is None or expected_sha256 not in (None, self.sha256_of(model)):
            raise ArtifactError("not what its hash says", where=str(model))
        return 1

    def point_to(self, model, *, expected_sha256, replacing):
        if self.fault:
            raise self.fault
        self.named = model

    def clear(self, *, replacing):
        if self.fault:
            raise self.fault
        self.named = None

    def trigger(self, model):
        self.triggered.append(model)


@dataclass
class FakeFolders:
    """ports.RunFolders under a real folder."""

    root: Path

    def path_of(self, run_id):
        return self.root / "runs" / run_id

    def run_dir(self, run_id):
        path = self.path_of(run_id)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def checkpoint_dir(self, run_id):
        path = self.root / "checkpoints" / run_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def slot_request_dir(self, request_id):
        path = self.root / "slot_requests" / request_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def remove_slot_request_dir(self, request_id):
        shutil.rmtree(self.root / "slot_requests" / request_id, ignore_errors=True)


@dataclass
class FakeConfirmations:
    """ports.Confirmations: says what it was told to say."""

    seen: str | None = "follower engine-1 answered with it"

    def seen_serving(self, **_):
        return self.seen


@dataclass
class FakeClock:
    """A clock that only moves when told."""

    now: datetime = NOW

    def __call__(self):
        return self.now

    def forward(self, seconds: float):
        self.now += timedelta(seconds=seconds)


def _sound(request):
    return Done(result=VerifyResult(sha256=request.expected_sha256 or "a" * 64, canary_error=0.0))


def fake_world(root: Path, *, clock: Callable[[], datetime] | None = None, **changes: Any) -> StageContext:
    parts: dict[str, Any] = {
        "store": FakeStore(),
        "workers": FakeWorkers(),
        "verifier": FakeWorkers(answers={"VERIFY": _sound}),
        "slot": FakeSlot(),
        "folders": FakeFolders(root),
        "confirmations": FakeConfirmations(),
        "now": clock or FakeClock(),
        "policies": Policies(data=DataPolicy(), split=SplitPolicy(), recipe=Recipe(), gate=GatePolicy()),
    }
    return StageContext(**{**parts, **changes})
