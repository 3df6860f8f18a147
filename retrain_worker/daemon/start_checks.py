"""What is looked at before READY: a mistake that a person must mend ends the start, what may pass is a warning."""

from __future__ import annotations

import os
from collections.abc import Iterator

from retrain_worker import durable_file
from retrain_worker.adapters import trading_database
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.errors import DatabaseUnreachableError, SlotError
from retrain_worker.settings import Settings


def check_start(settings: Settings) -> Iterator[str]:
    """Warnings, one sentence each. Raises SlotError or SourceUnfitError where a start would be of no use.

    A database that cannot be reached now may be back at the first run; one without the table will not be.
    """
    for folder in (settings.model_path, settings.checkpoint_path):
        with durable_file.named_errors(folder):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SlotError("cannot be written", where=str(folder), remedy="`retrain-worker check` says what mends it")
    try:
        trading_database.check_source(str(settings.database_url), settings.database_path)
    except DatabaseUnreachableError as error:
        yield f"trading database: {error}"
    slot = ModelSlot(
        engine_models_dir=settings.engine_models_dir,
        engine_env_file=settings.engine_env_file,
        trigger_file=settings.engine_trigger_file,
        serving_user=settings.engine_user or None,
    )
    yield from (f"no model can be promoted: {finding}; {remedy}" for finding, remedy in slot.problems())
