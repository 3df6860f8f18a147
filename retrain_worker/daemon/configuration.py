"""The settings in force and the stage context built from them. A reload takes effect between two runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.daemon.signatures import signer_of
from retrain_worker.domain.lifecycle import WAITING, Stage
from retrain_worker.domain.rollout import RolloutPolicy
from retrain_worker.domain.worker_protocol import OneOffTask
from retrain_worker.settings import Settings
from retrain_worker.signing import Signer
from retrain_worker.stages.ports import Policies, StageContext

#: an evaluation of a waiting run takes seconds, and keeps the current run waiting
_EVALUATION_DEADLINE_SECONDS = 600.0


class Configuration:
    """What is in force now. `settings`, `slot` and `context` change together, between two runs."""

    def __init__(
        self,
        settings: Settings,
        build_context: Callable[[Settings, ModelSlot], StageContext],
        *,
        fence: Callable[[], object] = lambda: None,
    ) -> None:
        """`fence`: see ModelSlot."""
        self._build_context, self._fence = build_context, fence
        self._pending: Settings | None = None
        self.settings = settings
        self.slot = slot_of(settings, signer=signer_of(settings), fence=fence)
        self.context = build_context(settings, self.slot)

    @property
    def accepted(self) -> Settings:
        """The settings of the newest valid reload, in force or not yet; without one those of the start."""
        return self._pending or self.settings

    def request(self, settings: Settings) -> None:
        """Keep these settings for `adopt_pending`; the newest request wins."""
        self._pending = settings

    def adopt_pending(self) -> None:
        """Put requested settings in force. State, models, checkpoints, Redis and database are kept until a restart."""
        if self._pending is None:
            return
        kept = self.settings
        self.settings, self._pending = (
            replace(
                self._pending,
                state_path=kept.state_path,
                state_url=kept.state_url,
                redis_url=kept.redis_url,
                redis_names=kept.redis_names,
                database_url=kept.database_url,
                database_path=kept.database_path,
                model_path=kept.model_path,
                checkpoint_path=kept.checkpoint_path,
            ),
            None,
        )
        self.slot = slot_of(self.settings, signer=signer_of(self.settings), fence=self._fence)
        self.context = self._build_context(self.settings, self.slot)


def slot_of(
    settings: Settings, *, signer: Signer | None = None, fence: Callable[[], object] = lambda: None
) -> ModelSlot:
    """The engine's slot under these settings. `signer`, `fence`: for who publishes; one that only reads needs none."""
    return ModelSlot(
        engine_models_dir=settings.engine_models_dir,
        engine_env_file=settings.engine_env_file,
        trigger_file=settings.engine_trigger_file,
        serving_user=settings.engine_user or None,
        withdrawn_dir=settings.model_path / "runs/withdrawn",
        signer=signer,
        instance=settings.redis_names.instance,
        host_names=settings.host_names,
        fence=fence,
    )


def deadlines_of(settings: Settings) -> dict[Stage | OneOffTask, float]:
    """Seconds that a worker of each stage may take."""
    longest = settings.stage_deadline_minutes * 60
    return {stage: min(longest, _EVALUATION_DEADLINE_SECONDS) if stage in WAITING else longest for stage in Stage}


def policies_of(settings: Settings) -> Policies:
    """The policies of a run under these settings."""
    return Policies(
        data=settings.data,
        split=settings.split,
        recipe=settings.recipe,
        gate=settings.gate,
        needs_known_contract=settings.home is None,
        allow_live_swap=settings.allow_live_swap,
        engine_confirm_seconds=settings.engine_confirm_seconds,
        unconfirmed=settings.unconfirmed,
        models_url=settings.models_url,
        rollout=RolloutPolicy(
            stages=settings.rollout,
            stage_seconds=settings.rollout_stage_seconds,
            quorum=settings.engine_confirm_quorum,
        ),
        event_aliases=settings.event_aliases,
        shadow=settings.shadow,
        probation=settings.probation,
        trial_interval_minutes=settings.trial_interval_minutes,
        max_retries=settings.max_retries,
        worker_memory_bytes=settings.worker_memory_bytes,
    )
