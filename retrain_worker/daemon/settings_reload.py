"""Reads the settings again while the daemon works, and stores the result for who has asked for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from retrain_worker.adapters import journal, reload_result
from retrain_worker.adapters.reload_result import ReloadResult
from retrain_worker.adapters.systemd import Notifier
from retrain_worker.domain.problem import ProblemKind, problem_of
from retrain_worker.domain.setting_change import SettingChange, changes, shown
from retrain_worker.errors import RetrainError, SettingsError
from retrain_worker.settings import Settings

log = structlog.get_logger()


def reload_settings(
    accepted: Settings,
    *,
    read_settings: Callable[[], Settings],
    accept: Callable[[Settings], object],
    effect: str,
    notifier: Notifier,
    status: Callable[[], str],
    result_path: Path,
) -> Settings:
    """One reload for all signals that came before it. The settings that are accepted from now on.

    `accept` gets valid ones; what it raises rejects them. `effect` says when they take effect, for the log.
    """
    began_at_ns = time.monotonic_ns()
    notifier.reloading()
    problems: tuple[str, ...] = ()
    changed: tuple[SettingChange, ...] = ()
    try:
        settings = read_settings()
        changed = tuple(changes(accepted.values, settings.values))
        accept(settings)
        accepted = settings
        journal.set_level(settings.log_level)
        listed = "; ".join(change.message for change in changed) or "no setting has changed"
        log.info("reloaded", message=f"settings reloaded ({listed}); {effect}")
        for deprecation in settings.deprecations:
            log.warning("setting_deprecated", message=deprecation)
    except Exception as error:  # the running configuration stays, whatever is wrong with the new one
        named = problem_of(error, kind=ProblemKind.SETTINGS).message
        problems = error.problems if isinstance(error, SettingsError) else (named,)
        message = f"reload rejected, running configuration unchanged: {'; '.join(problems)}"
        log.error("reload_rejected", message=message, exc_info=not isinstance(error, RetrainError))  # noqa: TRY400
    notifier.ready(status())
    store_result(accepted, result_path, began_at_ns=began_at_ns, problems=problems, changed=changed)
    return accepted


def store_result(
    accepted: Settings,
    path: Path,
    *,
    began_at_ns: int,
    problems: tuple[str, ...] = (),
    changed: tuple[SettingChange, ...] = (),
) -> None:
    """Store what `reload` waits for, and what `config diff` compares with. A failure is logged."""
    result = ReloadResult(
        pid=os.getpid(),
        began_at_ns=began_at_ns,
        problems=problems,
        changes=changed,
        in_force={name: shown(name, value) for name, value in accepted.values.items()},
    )
    try:
        reload_result.write(path, result)
    except RetrainError as error:
        log.warning("reload_result_not_written", message=f"the result of the reload was not written: {error}")
