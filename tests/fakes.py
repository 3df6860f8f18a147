"""Ports for tests of the stages: the real state database in a temporary file, and doubles of what is expensive."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.events import Event
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.lifecycle import Deployment, Run
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.slot_request import SlotRequest
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import Done, VerifyResult
from retrain_worker.errors import ArtifactError, RetrainError, RetryLaterError
from retrain_worker.stages.ports import Policies, StageContext

StateT = TypeVar("StateT", bound=StateDb)
NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One move as it was stored."""

    run: Run
    events: Sequence[Event]
    deployment: Deployment | None


class RecordedState(StateDb):
    """The real state database in a temporary file, which keeps every move and shows all that it holds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.records: list[Record] = []

    def record(
        self, run: Run, *, events: Sequence[Event] = (), deployment: Deployment | None = None, **changes: Any
    ) -> None:
        """Store the move, and keep it in `records`."""
        super().record(run, events=events, deployment=deployment, **changes)
        self.records.append(Record(run=run, events=events, deployment=deployment))

    @property
    def events(self) -> list[Event]:
        """Every event, in the order in which they happened; nothing sends them here."""
        return [row.event for row in self.pending_events(10_000)]

    @property
    def slot_requests(self) -> list[SlotRequest]:
        """Every slot request, oldest first."""
        return self._all(SlotRequest, "SELECT * FROM slot_requests ORDER BY sequence")

    def known_run(self, run_id: str) -> Run:
        """The run, which must be there."""
        found = self.run(run_id)
        assert found is not None
        return found

    def known_deployment(self, deployment_id: str) -> Deployment:
        """The deployment, which must be there."""
        found = self.deployment(deployment_id)
        assert found is not None
        return found


@dataclass
class FakeWorkers:
    """ports.Workers: answers each stage from a table."""

    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)

    def result_of(self, stage: str, run_dir: Path, request: Any) -> Any:
        self.requests.append((stage, request))
        answer = self.answers[stage]
        return answer(request) if callable(answer) else answer


@dataclass
class FakeSlot:
    """ports.Slot: an env line and a directory, in memory."""

    named: Path | None = Path("/engine/patchtst_v20260109_233444.pth")
    shadow_only: bool = True
    published: list[Path] = field(default_factory=list)
    triggered: list[Path | None] = field(default_factory=list)
    fault: RetrainError | None = None
    #: path -> its hash, where it matters; None: the file is not there
    hashes: dict[str, str | None] = field(default_factory=dict)

    def current_path(self) -> Path | None:
        return self.named

    def is_shadow_only(self) -> bool:
        return self.shadow_only

    def publish(self, candidate: Path, *, expected_sha256: str) -> Path:
        if self.fault:
            raise self.fault
        self.check_ready(candidate, expected_sha256=expected_sha256)
        self.published.append(candidate)
        return candidate

    def sha256_of(self, model: Path) -> str | None:
        return self.hashes.get(str(model), "a" * 64)

    def check_ready(self, model: Path, *, expected_sha256: str | None) -> int:
        if self.sha256_of(model) is None or expected_sha256 not in (None, self.sha256_of(model)):
            raise ArtifactError("not what its hash says", where=str(model))
        return 1

    def point_to(self, model: Path, *, expected_sha256: str | None, replacing: Path | None) -> None:
        self.check_ready(model, expected_sha256=expected_sha256)
        self._name(model, replacing)

    def clear(self, *, replacing: Path | None) -> None:
        self._name(None, replacing)

    def _name(self, model: Path | None, replacing: Path | None) -> None:
        if self.fault:
            raise self.fault
        if self.named not in (model, replacing):
            raise RetryLaterError("the env line names another model", where=str(self.named))
        self.named = model

    def keep_only(self, model: Path | None) -> None:
        """There is nothing else."""

    def located(self, model: Path) -> Path:
        return model

    def restore(self, model: Path, *, expected_sha256: str) -> None:
        """It is in its place."""

    def trigger(self, model: Path | None) -> None:
        self.triggered.append(model)


@dataclass
class FakeConfirmations:
    """ports.Confirmations: says what it was told to say."""

    seen: str | None = "follower engine-1 answered with it"

    def seen_serving(self, **_: Any) -> str | None:
        return self.seen


@dataclass
class FakeClock:
    """A clock that only moves when told."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def _sound(request: Any) -> Done:
    return Done(result=VerifyResult(sha256=request.expected_sha256 or "a" * 64, canary_error=0.0))


#: closed by a fixture of tests/conftest.py after each test
_OPEN: list[StateDb] = []


def opened(state: StateT) -> StateT:
    """The state, which is closed when the test has ended."""
    _OPEN.append(state)
    return state


def close_all() -> None:
    """Close every state database of the test that has ended."""
    while _OPEN:
        _OPEN.pop().close()


@dataclass(frozen=True, kw_only=True)
class FakeContext(StageContext):
    """Everything that a stage may touch, with doubles of what is expensive."""

    store: RecordedState
    workers: FakeWorkers
    verifier: FakeWorkers
    slot: FakeSlot
    now: FakeClock


def fake_context(root: Path, *, clock: Callable[[], datetime] | None = None, **changes: Any) -> FakeContext:
    """Everything that a stage may touch, under `root`; `changes` replace parts of it."""
    root.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {
        "store": opened(RecordedState(root / "state.db")),
        "workers": FakeWorkers(),
        "verifier": FakeWorkers(answers={"VERIFY": _sound}),
        "slot": FakeSlot(),
        "folders": ArtifactStore(model_path=root, checkpoint_path=root / "checkpoints"),
        "confirmations": FakeConfirmations(),
        "now": clock or FakeClock(),
        "policies": Policies(data=DataPolicy(), split=SplitPolicy(), recipe=Recipe(), gate=GatePolicy()),
    }
    return FakeContext(**{**parts, **changes})
