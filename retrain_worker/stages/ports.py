"""The ports of the stages: state, worker process, slot, folders, confirmations; and the context that holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from retrain_worker.domain.acknowledgement import Acknowledgement
from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.confirmation import Confirm, Unconfirmed
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.events import Event
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.lifecycle import Deployment, Run
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.probation import ProbationPolicy
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.rollout import RolloutPolicy
from retrain_worker.domain.shadow_trial import ShadowPolicy
from retrain_worker.domain.slot_request import SlotRequest
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import Broken, Done, Working


class RunStore(Protocol):
    """The stored state: runs, deployments, slot requests, outbox, watermark. One transaction per `record`."""

    def unfinished_run(self) -> Run | None:
        """The working run, at most one; runs on trial and on probation do not count."""

    def waiting_runs(self) -> list[Run]:
        """The runs on trial and on probation, oldest first."""

    def run(self, run_id: str | None) -> Run | None:
        """One run; None for None, and for a run that is not stored."""

    def history(self, limit: int) -> list[Run]:
        """The newest runs, newest first."""

    def pause(self) -> Pause | None:
        """The pause of promotions, which may be over."""

    def blocked(self, sha256: str) -> str | None:
        """Why a model with this sha256 is blocked; None when it is not."""

    def record(
        self,
        run: Run,
        *,
        events: Sequence[Event] = (),
        deployment: Deployment | None = None,
        request: SlotRequest | None = None,
        watermark_path: Path | None = None,
    ) -> None:
        """Store a run, its events, a deployment, a slot request and a new watermark in one transaction."""

    def record_deployment(
        self, deployment: Deployment, *, events: Sequence[Event] = (), run: Run | None = None
    ) -> None:
        """Store a deployment without a request, its events, and the run that it rolls back in one transaction."""

    def record_slot_request(
        self,
        request: SlotRequest,
        *,
        deployment: Deployment | None = None,
        events: Sequence[Event] = (),
        run: Run | None = None,
    ) -> None:
        """Store a slot request, its deployment, its events and the run it opens or rolls back in one transaction."""

    def request(self, request_id: str) -> SlotRequest | None:
        """One slot request."""

    def deployment(self, deployment_id: str) -> Deployment | None:
        """One deployment."""

    def last_deployment(self) -> Deployment | None:
        """The newest deployment that reached the env file."""

    def reached_deployments(self) -> list[Deployment]:
        """Every deployment that reached the env file, in that order."""

    def intended_deployments(self) -> list[Deployment]:
        """Deployments at INTENDED: the env file may or may not name their model."""

    def last_promotion(self) -> Deployment | None:
        """The newest promotion that reached the env file, whether it still serves or not."""

    def watermark_path(self) -> Path | None:
        """The watermark: the snapshot of the last committed run."""

    def alpha_spending_before(self, run_id: str | None) -> AlphaSpending | None:
        """The alpha spending of the newest decision of an earlier run (of any run, for None)."""


class Workers(Protocol):
    """Runs the heavy part of a stage in a worker process."""

    def result_of(self, stage: str, run_dir: Path, request: Any) -> Working | Done | Broken:
        """Start the worker for this stage and run if it is not running; its state. Never blocks.

        Called again after Done with the same request, it returns the same result without starting a worker.
        """


class Slot(Protocol):
    """The engine's slot: model directory and env line."""

    def current_path(self) -> Path | None:
        """The model that PATCHTST_MODEL_PATH names. Raises SlotError when the env file cannot be used."""

    def is_shadow_only(self) -> bool:
        """Whether the env file has PATCHTST_SHADOW_ONLY=true. Raises SlotError when it cannot be read."""

    def publish(self, candidate: Path, *, expected_sha256: str) -> Path:
        """Copy a verified model and its sidecars into the engine's directory, durably; the path there. Idempotent."""

    def sha256_of(self, model: Path) -> str | None:
        """The hash of a model file; None when it does not exist."""

    def check_ready(self, model: Path, *, expected_sha256: str | None) -> int:
        """The size in bytes of a model that the env line may name.

        Raises ArtifactError when it is missing or has another hash, SlotError when the engine cannot read it.
        """

    def point_to(self, model: Path, *, expected_sha256: str, replacing: Path | None) -> None:
        """Make the env line name `model`, atomically, with a backup. Doing it twice changes nothing.

        `replacing`: what the line named at the decision. Raises RetryLaterError when it names another file; then the
        line is unchanged.
        """

    def clear(self, *, replacing: Path) -> None:
        """Remove the env line, atomically, with a backup. Doing it twice changes nothing.

        Raises RetryLaterError when it names another model than `replacing`.
        """

    def keep_only(self, model: Path | None) -> None:
        """Move this program's other models out of the engine's directory, and date `model` as the newest. Idempotent.

        They stay available to `located` and `restore`. Raises SlotError, DiskFullError.
        """

    def located(self, model: Path) -> Path:
        """Where the file of `model` is: in its place, or withdrawn; its place when it is nowhere."""

    def restore(self, model: Path, *, expected_sha256: str) -> None:
        """Copy a withdrawn model back into its place; nothing to do for one that is there. Raises ArtifactError."""

    def trigger(self, model: Path | None) -> None:
        """Request a restart of the engine."""


class RunFolders(Protocol):
    """The directories of runs."""

    def path_of(self, run_id: str) -> Path:
        """The directory of a run, which may not exist."""

    def run_dir(self, run_id: str) -> Path:
        """The directory of a run, created if necessary."""

    def checkpoint_dir(self, run_id: str) -> Path:
        """The directory of the worker's checkpoint, created if necessary."""

    def folds_dir(self) -> Path:
        """The directory of predictions on backtest folds, which all runs share, created if necessary."""

    def slot_request_dir(self, request_id: str) -> Path:
        """The directory of a slot request's verification, created if necessary."""

    def remove_slot_request_dir(self, request_id: str) -> None:
        """Remove it if it exists."""


class Confirmations(Protocol):
    """Whether the engine was seen serving a model."""

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """One message with the evidence; None while there is none. Raises RetryLaterError when that is not known."""


@dataclass(frozen=True, kw_only=True)
class Policies:
    """The policies of one run."""

    data: DataPolicy
    split: SplitPolicy
    recipe: Recipe
    gate: GatePolicy
    #: swap even when PATCHTST_SHADOW_ONLY is not true
    allow_live_swap: bool = False
    #: PRESET=auto takes no contract for granted: the engine is not this program's own
    needs_known_contract: bool = False
    engine_confirm_seconds: float = 120.0
    unconfirmed: Unconfirmed = Unconfirmed.KEEP
    #: where promoted models are copied, for followers on other hosts; empty: nowhere
    models_url: str = ""
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    #: publish events under the stack's names as well (domain.events.ALIASES)
    event_aliases: bool = False
    shadow: ShadowPolicy = field(default_factory=ShadowPolicy)
    probation: ProbationPolicy = field(default_factory=lambda: ProbationPolicy(hours=0.0))
    #: minutes between two evaluations of a model on trial or on probation
    trial_interval_minutes: float = 10.0
    #: unexpected ends in the same stage after which the run is abandoned
    max_stage_deaths: int = 3
    #: retries of a stage after a RetryLaterError
    max_retries: int = 3
    #: seconds until the first retry after a RetryLaterError; doubles with each attempt
    retry_seconds: float = 30.0
    worker_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """The ports and policies of a stage."""

    store: RunStore
    workers: Workers
    #: verifies a model for a slot request, beside the worker of a run
    verifier: Workers
    slot: Slot
    #: copies models to policies.models_url
    uploader: Workers | None = None
    folders: RunFolders
    confirmations: Confirmations
    #: of followers that count, since an instant (None: 30 days), newest first. Raises RetryLaterError
    acknowledgements: Callable[[datetime | None], Sequence[Acknowledgement]] = lambda _since: ()
    #: what a confirmation is to be expected from; never AUTO
    confirm_by: Callable[[], Confirm] = lambda: Confirm.EVENT
    #: why that is NONE
    unconfirmable: str = "ENGINE_CONFIRM=none"
    policies: Policies
    now: Callable[[], datetime]
    #: the finding of the serving monitor; empty without one
    engine_says: Callable[[], str] = lambda: ""
    #: raises ArtifactError for a model file that is not signed, with SIGNED_MODELS=required
    check_signature: Callable[[Path, str], object] = lambda _model, _sha256: None

    @property
    def pause(self) -> Pause | None:
        """The pause in force."""
        pause = self.store.pause()
        return None if pause is None or pause.is_over(self.now()) else pause
