"""The steps of a swap, the same for promotions and rollbacks (docs/reference/swap.md).

Each step is idempotent and is stored before the next one begins:

    INTENDED → copied to models_url → env line replaced → SWAPPED → trigger file → ANNOUNCED →
    seen serving, or not in time → CONFIRMED | NOT_CONFIRMED | NOT_ASKED;
    UNDONE where it was cancelled before the env line changed
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from retrain_worker.domain.confirmation import Confirm
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState
from retrain_worker.domain.upload_request import UploadRequest
from retrain_worker.domain.worker_protocol import Broken, OneOffTask, Working
from retrain_worker.errors import RetrainError, RetryLaterError, SlotError
from retrain_worker.stages.ports import StageContext

#: final states of a deployment
ENDED = frozenset(
    {DeploymentState.CONFIRMED, DeploymentState.NOT_CONFIRMED, DeploymentState.NOT_ASKED, DeploymentState.UNDONE}
)


@dataclass(frozen=True, kw_only=True)
class SwapStep:
    """One step: the deployment after it (the same object where nothing changed), and a message."""

    deployment: Deployment
    message: str


def intended(
    *,
    deployment_id: str,
    run_id: str | None,
    kind: DeploymentKind,
    version: str,
    model: Path | None,
    sha256: str,
    requested_by: str,
    reason: str,
    context: StageContext,
) -> Deployment:
    """The intent of a swap: the engine can read `model`, and it is in shadow mode.

    None empties the slot. Raises SlotError when the swap may not begin, ArtifactError when the model does not have the
    hash `sha256`.
    """
    check_shadow(context)
    size_bytes = context.slot.check_ready(model, expected_sha256=sha256) if model else 0
    current, now = context.slot.current_path(), context.now()
    return Deployment(
        deployment_id=deployment_id,
        run_id=run_id,
        kind=kind,
        version=version,
        model_path=str(model) if model else "",
        sha256=sha256,
        size_bytes=size_bytes,
        previous_version=current.stem if current else None,
        previous_model_path=str(current) if current else None,
        previous_sha256=_sha256_of(current, context),
        state=DeploymentState.INTENDED,
        created_at=now,
        updated_at=now,
        requested_by=requested_by,
        reason=reason,
    )


def take_step(deployment: Deployment, context: StageContext) -> SwapStep:
    """The step that is due. When its state is newly SWAPPED, the caller publishes the event.

    UNDONE where the line was changed externally since the intent, which may be hours old.
    """
    match deployment.state:
        case DeploymentState.INTENDED:
            return _point(deployment, context)
        case DeploymentState.SWAPPED:
            model = Path(deployment.model_path) if deployment.model_path else None
            left = _withdraw_others(model, context) if deployment.kind is DeploymentKind.ROLLBACK else ""
            announced = _moved(deployment, DeploymentState.ANNOUNCED, context)  # dated before the engine can restart
            context.slot.trigger(model)
            return SwapStep(deployment=announced, message=f"{engine_restart(deployment)}{left}")
        case DeploymentState.ANNOUNCED:
            return _confirm(deployment, context)
        case _:
            return SwapStep(deployment=deployment, message=deployment.confirmation)


def cut_short(deployment: Deployment, reason: str, context: StageContext) -> Deployment:
    """The end of a swap that cannot continue. The env file decides.

    NOT_CONFIRMED when the env line names the model, because the engine loads it at its next start. If the deployment
    was INTENDED until now, its event is still to be published. Otherwise UNDONE.
    """
    if deployment.state in ENDED:
        return deployment
    if deployment.state is DeploymentState.INTENDED and named(context) != deployment.model_path:
        return _moved(deployment, DeploymentState.UNDONE, context, confirmation=reason)
    return _moved(deployment, DeploymentState.NOT_CONFIRMED, context, confirmation=reason)


def named(context: StageContext) -> str | None:
    """The path that the env line names, "" when it names none; None when it cannot be read."""
    try:
        current = context.slot.current_path()
    except SlotError:
        return None
    return str(current) if current else ""


def check_shadow(context: StageContext) -> None:
    """Raise SlotError unless the engine is in shadow mode or ALLOW_LIVE_SWAP is set."""
    if not context.policies.allow_live_swap and not context.slot.is_shadow_only():
        raise SlotError(
            "the engine is not in shadow mode, so its model is not replaced",
            where="PATCHTST_SHADOW_ONLY",
            remedy="set PATCHTST_SHADOW_ONLY=true in the engine's env file, or ALLOW_LIVE_SWAP=true here",
        )


def result_of(deployment: Deployment) -> str:
    """How an ended swap was confirmed, or that it was not."""
    is_unconfirmed = deployment.state is DeploymentState.NOT_CONFIRMED
    return f"not confirmed: {deployment.confirmation}" if is_unconfirmed else deployment.confirmation


def _point(deployment: Deployment, context: StageContext) -> SwapStep:
    current = context.slot.current_path()
    found = str(current) if current else ""
    if found not in (deployment.model_path, deployment.previous_model_path or ""):
        how = f"PATCHTST_MODEL_PATH was changed externally; it names {found or 'nothing'} now"
        undone = _moved(deployment, DeploymentState.UNDONE, context, confirmation=how)
        return SwapStep(deployment=undone, message=how)
    if found != deployment.model_path:
        check_shadow(context)
        if waiting := uploading(deployment, context):
            return SwapStep(deployment=deployment, message=waiting)
    # also when the line is already right: the rename may not be durable yet
    if deployment.model_path:
        context.slot.point_to(Path(deployment.model_path), expected_sha256=deployment.sha256, replacing=current)
    else:
        context.slot.clear(replacing=Path(str(deployment.previous_model_path)))
    return SwapStep(
        deployment=_moved(deployment, DeploymentState.SWAPPED, context),
        message=env_line(deployment),
    )


def uploading(deployment: Deployment, context: StageContext) -> str:
    """Before a promotion: what is waited for until model and incumbent are at models_url. Raises the worker's error.

    The incumbent as well, so that a rollback finds it there; a rollback itself waits for no upload.
    """
    if context.uploader is None or deployment.kind is not DeploymentKind.PROMOTE or not context.policies.models_url:
        return ""
    answer = context.uploader.result_of(
        OneOffTask.UPLOAD,
        context.folders.run_dir(deployment.deployment_id),
        UploadRequest(
            models=tuple(
                (path, sha256)
                for path, sha256 in (
                    (deployment.model_path, deployment.sha256),
                    (deployment.previous_model_path, deployment.previous_sha256),
                )
                if path and sha256
            ),
            models_url=context.policies.models_url,
            memory_limit_bytes=context.policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Broken):
        raise answer.error
    return f"{deployment.version} is being copied to {context.policies.models_url}" * isinstance(answer, Working)


def _withdraw_others(model: Path | None, context: StageContext) -> str:
    """Before the restart: an engine that searches its directory finds no other model. What is left of it, as a message.

    A rollback is not delayed by a disk that is full.
    """
    try:
        context.slot.keep_only(model)
    except RetrainError as error:
        return f"; withdrawn models are still in the engine's directory: {error}"
    return ""


def _confirm(deployment: Deployment, context: StageContext) -> SwapStep:
    policies = context.policies
    found = named(context)
    if found not in (deployment.model_path, None):
        return _ended(deployment, f"PATCHTST_MODEL_PATH names {found or 'nothing'} now", context)
    if not deployment.model_path:
        return _not_asked(deployment, "the slot names no model", context)
    confirm = context.confirm_by()
    if confirm is Confirm.NONE:
        return _not_asked(deployment, f"no confirmation expected: {context.unconfirmable}", context)
    # a unit that started before the request has read the old line; a follower names the model, and may be faster
    since = deployment.updated_at if confirm is Confirm.UNIT else deployment.created_at
    unknown = ""
    try:
        seen = context.confirmations.seen_serving(
            version=deployment.version, sha256=deployment.sha256, model_path=deployment.model_path, since=since
        )
    except RetryLaterError as error:
        seen, unknown = None, f"; {error.what}"
    if seen:
        confirmed = _moved(deployment, DeploymentState.CONFIRMED, context, confirmation=seen)
        return SwapStep(deployment=confirmed, message=seen)
    waited = (context.now() - deployment.updated_at).total_seconds()
    if waited < policies.engine_confirm_seconds:
        return SwapStep(
            deployment=deployment,
            message=f"waiting for the engine to serve {deployment.version}, "
            f"{policies.engine_confirm_seconds - waited:.0f} s left{unknown}",
        )
    how = (
        f"{deployment.version} was not seen in service within {policies.engine_confirm_seconds:.0f} s "
        f"(confirmation by {confirm}){unknown}"
    )
    return _ended(deployment, how, context)


def env_line(deployment: Deployment) -> str:
    """What the env file holds after the swap."""
    return f"PATCHTST_MODEL_PATH {f'names {deployment.version}' if deployment.model_path else 'removed'}"


def engine_restart(deployment: Deployment) -> str:
    """The request that follows."""
    return "engine restart requested" + (f" for {deployment.version}" if deployment.model_path else "")


def _ended(deployment: Deployment, how: str, context: StageContext) -> SwapStep:
    return SwapStep(
        deployment=_moved(deployment, DeploymentState.NOT_CONFIRMED, context, confirmation=how),
        message=f"not confirmed: {how}",
    )


def _not_asked(deployment: Deployment, how: str, context: StageContext) -> SwapStep:
    return SwapStep(deployment=_moved(deployment, DeploymentState.NOT_ASKED, context, confirmation=how), message=how)


def _moved(
    deployment: Deployment, state: DeploymentState, context: StageContext, *, confirmation: str = ""
) -> Deployment:
    return replace(deployment, state=state, updated_at=context.now(), confirmation=confirmation)


def _sha256_of(model: Path | None, context: StageContext) -> str | None:
    """The hash of the model in the slot; None when it cannot be read, which must not prevent its replacement."""
    if model is None:
        return None
    try:
        return context.slot.sha256_of(model)
    except RetrainError:
        return None
