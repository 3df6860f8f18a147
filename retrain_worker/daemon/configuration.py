"""The settings in force and the stage context built from them. A reload takes effect between two runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.domain.lifecycle import WAITING, Stage
from retrain_worker.domain.worker_protocol import OneOffTask
from retrain_worker.settings import Settings
from retrain_worker.stages.ports import Policies, StageContext

#: an evaluation of a waiting run takes seconds, and keeps the current run waiting
_EVALUATION_DEADLINE_SECONDS = 600.0


class Configuration:
    """What is in force now. `settings`, `slot` and `context` change together, between two runs."""

    def __init__(self, settings: Settings, build_context: Callable[[Settings, ModelSlot], StageContext]) -> None:
        self._build_context = build_context
        self._pending: Settings | None = None
        self.settings = settings
        self.slot = slot_of(settings)
        self.context = build_context(settings, self.slot)

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
                redis_url=kept.redis_url,
                redis_names=kept.redis_names,
                database_url=kept.database_url,
                database_path=kept.database_path,
                model_path=kept.model_path,
                checkpoint_path=kept.checkpoint_path,
            ),
            None,
        )
        self.slot = slot_of(self.settings)
        self.context = self._build_context(self.settings, self.slot)


def slot_of(settings: Settings) -> ModelSlot:
    """The engine's slot under these settings."""
    return ModelSlot(
        engine_models_dir=settings.engine_models_dir,
        engine_env_file=settings.engine_env_file,
        trigger_file=settings.engine_trigger_file,
        serving_user=settings.engine_user or None,
        withdrawn_dir=settings.model_path / "runs/withdrawn",
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
        event_aliases=settings.event_aliases,
        shadow=settings.shadow,
        probation=settings.probation,
        trial_interval_minutes=settings.trial_interval_minutes,
        max_retries=settings.max_retries,
        worker_memory_bytes=settings.worker_memory_bytes,
    )
