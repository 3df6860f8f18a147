"""Checks before READY: what an operator must correct ends the start, what may pass by itself is a warning."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from retrain_worker import confinement, durable_file
from retrain_worker.adapters import state_access, trading_database
from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.daemon.configuration import slot_of
from retrain_worker.daemon.signatures import required_verifier, signer_of
from retrain_worker.domain.host_names import command
from retrain_worker.domain.problem import Problem, ProblemKind, problem_of
from retrain_worker.domain.recipe import Preset
from retrain_worker.errors import DatabaseUnreachableError, SettingsError, SlotError
from retrain_worker.settings import Settings
from retrain_worker.stages.engine_contract import known_contract


def check_start(settings: Settings) -> Iterator[Problem]:
    """What to warn of. Raises SlotError or SourceUnfitError where a start would be of no use.

    A database that is unreachable now may be reachable at the first run; one without the table will not get it.
    """
    run_folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    for folder in (*run_folders.own_directories, settings.model_path / "runs/withdrawn"):
        with durable_file.named_errors(folder):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SlotError("not writable", where=str(folder), remedy=f"`{command()} check` shows the command for it")
    try:
        trading_database.check_source(str(settings.database_url), settings.database_path)
    except DatabaseUnreachableError as error:
        yield problem_of(error, kind=ProblemKind.DATABASE)
    if missing := contract_problem(settings):
        yield missing
    for finding, remedy in slot_of(settings).problems():
        yield Problem(kind=ProblemKind.SLOT, subject="no model can be promoted", cause=finding, action=remedy)
    if required_verifier(settings, signer := signer_of(settings)) is not None and signer is None:
        raise SettingsError(
            ("SIGNED_MODELS=required, but there is no SIGNING_KEY: the engine would take no promotion",)
        )
    if unconfined := confinement_problem():
        yield unconfined


def confinement_problem() -> Problem | None:
    """A kernel that cannot confine workers."""
    if confinement.version():
        return None
    return Problem(
        kind=ProblemKind.HOST,
        subject="workers are not confined",
        cause="this kernel has no Landlock (Linux 5.13)",
        action="a worker can read and write what the daemon can; boot a kernel with CONFIG_SECURITY_LANDLOCK",
    )


def contract_problem(settings: Settings) -> Problem | None:
    """An engine whose contract is not known: the contract gate of every candidate would be UNDECIDED."""
    try:
        is_named = slot_of(settings).current_path() is not None
    except SlotError:
        return None  # a problem of its own
    if is_named or settings.home is not None or settings.recipe.preset is not Preset.AUTO:
        return None
    place = settings.state_place
    with state_access.state_beside(place) if state_access.exists(place) else contextlib.nullcontext() as store:
        if store is not None and known_contract(store) is not None:
            return None
    return Problem(
        kind=ProblemKind.SLOT,
        subject="no model can be promoted",
        cause="PRESET=auto, and the engine's slot has had no model with a known contract",
        action="set PRESET=engine for the network that the stack's engine builds (128 rows x 8 inputs), or "
        "PRESET=paper for an engine that loads models with retrain_worker.serving",
    )
