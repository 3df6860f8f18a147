"""The questions that stages ask of the world, each as small as what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.confirmation import Confirm, Unconfirmed
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.events import Event
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.lifecycle import Deployment, Run
from retrain_worker.domain.probation import ProbationPolicy
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.shadow_trial import ShadowPolicy
from retrain_worker.domain.slot_request import SlotRequest
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import Broken, Done, Working


class RunStore(Protocol):
    """Our own memory: runs, deployments, orders, the outbox, the watermark. One transaction per `record`."""

    def unfinished_run(self) -> Run | None:
        """The run at work, if there is one. There is at most one; runs on trial and on probation are not at work."""

    def waiting_runs(self) -> list[Run]:
        """The runs on trial and on probation, oldest first."""

    def run(self, run_id: str) -> Run | None:
        """One run."""

    def blocked(self, sha256: str) -> str | None:
        """Why a model with these bytes is never promoted again; None when nothing is known against it."""

    def record(
        self,
        run: Run,
        *,
        events: Sequence[Event] = (),
        deployment: Deployment | None = None,
        request: SlotRequest | None = None,
        watermark_path: Path | None = None,
    ) -> None:
        """Store a move, the events it causes, a deployment, an order and a new watermark: all or nothing."""

    def record_deployment(self, deployment: Deployment, *, events: Sequence[Event] = ()) -> None:
        """Store a deployment that no run makes, with the events it causes."""

    def record_slot_request(
        self,
        request: SlotRequest,
        *,
        deployment: Deployment | None = None,
        events: Sequence[Event] = (),
        run: Run | None = None,
    ) -> None:
        """Store an order, its deployment, the events it causes and the run it opens: all or nothing."""

    def request(self, request_id: str) -> SlotRequest | None:
        """One order."""

    def deployment(self, deployment_id: str) -> Deployment | None:
        """One deployment."""

    def last_deployment(self) -> Deployment | None:
        """The newest deployment that reached the env file."""

    def reached_deployments(self) -> list[Deployment]:
        """Every deployment that reached the env file, in the order in which they did."""

    def intended_deployments(self) -> list[Deployment]:
        """The deployments of which it is not stored whether they reached the env file."""

    def last_promotion(self) -> Deployment | None:
        """The newest deployment that a run made and that reached the env file, whether it serves still or not."""

    def watermark_path(self) -> Path | None:
        """The fingerprints of the rows that the last committed run has covered."""

    def alpha_spending_before(self, run_id: str | None) -> AlphaSpending | None:
        """What the newest decision of an earlier run (of any run, for None) spent and left."""


class Workers(Protocol):
    """Runs the heavy part of a stage in a process of its own."""

    def result_of(self, stage: str, run_dir: Path, request: Any) -> Working | Done | Broken:
        """Start the worker for this stage and run if it is not running, and say how it stands. Never blocks.

        Asked again after Done it gives the same result without starting anything, as long as the request is the same.
        """


class Slot(Protocol):
    """The engine's pair of model file and env line."""

    def current_path(self) -> Path | None:
        """What PATCHTST_MODEL_PATH names now. Raises SlotError when the env file cannot be used."""

    def is_shadow_only(self) -> bool:
        """Whether the env file says PATCHTST_SHADOW_ONLY=true. Raises SlotError when it cannot be read."""

    def publish(self, candidate: Path, *, expected_sha256: str) -> Path:
        """Copy a verified model and its sidecars into the engine's directory, durably; the path there. Idempotent."""

    def sha256_of(self, model: Path) -> str | None:
        """The hash of a model file; None when nothing has that name."""

    def check_ready(self, model: Path, *, expected_sha256: str | None) -> int:
        """The size in bytes of a model that the engine could be pointed to now.

        Raises ArtifactError when it is not there or not what its hash says, SlotError when the engine cannot read it.
        """

    def point_to(self, model: Path, *, expected_sha256: str, replacing: Path | None) -> None:
        """Make the env line name `model`, atomically, with a backup. Doing it twice changes nothing.

        `replacing`: what the line named when this was decided. Raises RetryLaterError when it names a third file by
        now; then the line is as somebody else wrote it.
        """

    def clear(self, *, replacing: Path) -> None:
        """Take the env line away, atomically, with a backup. Doing it twice changes nothing.

        Raises RetryLaterError when it names another model than `replacing` by now.
        """

    def trigger(self, model: Path | None) -> None:
        """Tell whoever restarts the engine that the slot has changed."""


class RunFolders(Protocol):
    """Where a run keeps its files."""

    def path_of(self, run_id: str) -> Path:
        """The folder of a run, whether it is there or not."""

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run; made if it is not there."""

    def checkpoint_dir(self, run_id: str) -> Path:
        """Where the worker keeps what it needs to resume; made if it is not there."""

    def slot_request_dir(self, request_id: str) -> Path:
        """Where the verification for an order leaves its answer; made if it is not there."""

    def remove_slot_request_dir(self, request_id: str) -> None:
        """Remove it, if it is there."""


class Confirmations(Protocol):
    """Whether the engine was seen serving a model."""

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """Who serves it and how that is known, one sentence; None while nobody does."""


@dataclass(frozen=True, kw_only=True)
class Policies:
    """The policies of one run."""

    data: DataPolicy
    split: SplitPolicy
    recipe: Recipe
    gate: GatePolicy
    #: refuse to swap unless PATCHTST_SHADOW_ONLY=true, except when this is set
    allow_live_swap: bool = False
    engine_confirm: Confirm = Confirm.EVENT
    engine_confirm_seconds: float = 120.0
    unconfirmed: Unconfirmed = Unconfirmed.KEEP
    shadow: ShadowPolicy = field(default_factory=ShadowPolicy)
    probation: ProbationPolicy = field(default_factory=lambda: ProbationPolicy(hours=0.0))
    #: minutes between two evaluations of a model on trial or on probation
    trial_interval_minutes: float = 10.0
    #: deaths in the same stage after which the run is abandoned
    max_stage_deaths: int = 3
    #: retries of a stage after a RetryLaterError
    max_retries: int = 3
    #: seconds until the first retry after a RetryLaterError; doubles with each attempt
    retry_seconds: float = 30.0
    worker_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """Everything a stage may touch."""

    store: RunStore
    workers: Workers
    #: verifies a model for an order, beside whatever a run's worker is doing
    verifier: Workers
    slot: Slot
    folders: RunFolders
    confirmations: Confirmations
    policies: Policies
    now: Callable[[], datetime]
    #: what the engine's own answers say of its serving, one sentence; empty where nobody listens
    engine_says: Callable[[], str] = lambda: ""
