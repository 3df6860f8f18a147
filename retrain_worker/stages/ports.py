"""The questions that stages ask of the world, each as small as what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from retrain_worker.domain.audit import DataPolicy
from retrain_worker.domain.events import Event
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.handoff import Broken, Done, Working
from retrain_worker.domain.lifecycle import Deployment, Run
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.windows import SplitPolicy


class RunStore(Protocol):
    """Our own memory: runs, deployments, the outbox, the watermark. One transaction per `record`."""

    def unfinished_run(self) -> Run | None:
        """The run that is not finished, if there is one. There is at most one."""

    def record(
        self, run: Run, *, events: Sequence[Event] = (), deployment: Deployment | None = None,
        watermark_path: Path | None = None,
    ) -> None:
        """Store a move, the events it causes, a deployment and a new watermark: all or nothing."""

    def deployment(self, deployment_id: str) -> Deployment | None:
        """One deployment."""

    def last_deployment(self) -> Deployment | None:
        """The newest deployment that reached the env file."""

    def last_promotion(self) -> Deployment | None:
        """The newest deployment that a run made and that reached the env file, whether it serves still or not."""

    def watermark_path(self) -> Path | None:
        """The fingerprints of the rows that the last committed run has covered."""


class Children(Protocol):
    """Runs the heavy part of a stage in a process of its own."""

    def result_of(self, stage: str, run_dir: Path, request: Any) -> Working | Done | Broken:
        """Start the child for this stage and run if it is not running, and say how it stands. Never blocks.

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

    def point_to(self, model: Path, *, expected_sha256: str) -> None:
        """Make the env line name `model`, atomically, with a backup. Doing it twice changes nothing."""

    def trigger(self, model: Path) -> None:
        """Tell whoever restarts the engine that the slot has changed."""


class RunFolders(Protocol):
    """Where a run keeps its files."""

    def path_of(self, run_id: str) -> Path:
        """The folder of a run, whether it is there or not."""

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run; made if it is not there."""

    def checkpoint_dir(self, run_id: str) -> Path:
        """Where the child keeps what it needs to resume; made if it is not there."""


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
    #: none | event | unit: how the engine is seen serving the new file
    engine_confirm: str = "event"
    engine_confirm_seconds: float = 120.0
    #: deaths in the same stage after which the run is abandoned
    max_stage_deaths: int = 3
    #: retries of a stage after a RetryLaterError
    max_retries: int = 3
    #: seconds until the first retry after a RetryLaterError; doubles with each attempt
    retry_seconds: float = 30.0
    child_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything a stage may touch."""

    store: RunStore
    children: Children
    slot: Slot
    folders: RunFolders
    confirmations: Confirmations
    policies: Policies
    now: Callable[[], datetime]
