"""`access`: what the service may do on a host that other programs share, granted and taken back by root."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.adapters.account_names import SERVICE_GROUP, SERVICE_USER
from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.host_names import command

if TYPE_CHECKING:
    from retrain_worker.adapters.host_access import HostAccess
    from retrain_worker.settings import Settings

_UNITS = Path("/etc/systemd/system")
_KEEP_ACL_TEXT = """\
# Written by `retrain-worker access grant`: the access control list of the engine's env file names accounts that
# PrivateUsers= hides, and the file that replaces it keeps the list.
[Service]
PrivateUsers=no
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "grant: the service's user may replace the engine's env file and add models; by access control lists, so that "
        "no other account loses access. restore: owners, modes and lists as they were before."
    )
    parser.add_argument("action", choices=("grant", "restore"), help="add the permissions, or restore what was there")
    options.add_instance(parser)
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read settings from FILE")
    options.add_json(parser)
    parser.set_defaults(home=None)


def execute(arguments: argparse.Namespace) -> int:
    """Print each change; 1 where a grant was not possible, which does not stop the others. Raises UsageError."""
    import grp
    import pwd

    from retrain_worker.adapters.host_access import HostAccess
    from retrain_worker.cli.results import Changes
    from retrain_worker.cli.screen import as_json
    from retrain_worker.errors import RetrainError, UsageError

    if os.geteuid() != 0:
        raise UsageError("only root can change the access to files of others", remedy="run it with sudo")
    try:
        access = HostAccess(uid=pwd.getpwnam(SERVICE_USER).pw_uid, gid=grp.getgrnam(SERVICE_GROUP).gr_gid)
    except KeyError as error:
        raise UsageError(str(error), remedy="systemd-sysusers creates the user and the group") from None
    settings = options.read_valid_settings(arguments)
    steps = _grants(access, settings) if arguments.action == "grant" else _restorations(access, settings)
    changes, problems = [], []
    for step in steps:
        try:
            for change in step():
                changes.append(change)
                if not arguments.json:
                    print(change, flush=True)
        except RetrainError as error:
            problems.append(str(error))
            print(f"retrain-worker: {error}; then: {command()} access {arguments.action}", file=sys.stderr)
    if arguments.json:
        print(as_json(Changes(changes=tuple(changes), problems=tuple(problems))))
    return ExitCode.FAILED if problems else ExitCode.DONE


def _grants(access: HostAccess, settings: Settings) -> list[Callable[[], Iterator[str]]]:
    from retrain_worker.adapters.artifact_store import ArtifactStore
    from retrain_worker.adapters.host_access import ENTER_AND_WRITE, READ

    folders = ArtifactStore(model_path=settings.model_path, checkpoint_path=settings.checkpoint_path)
    env_file, own_settings = settings.engine_env_file, settings.host_names.env_file
    return [
        *(partial(access.make_own, directory) for directory in folders.own_directories),
        *([partial(access.grant, own_settings, READ)] if own_settings.exists() else []),
        partial(access.grant, settings.engine_models_dir, ENTER_AND_WRITE),
        # before the env file has another owner than root
        partial(_protect_engine, access, settings),
        partial(access.grant, env_file.parent, ENTER_AND_WRITE, is_sticky=True),
        partial(access.hand_over, env_file),
        partial(_keep_list, access, env_file, _UNITS / f"{settings.host_names.service}.d/keep-acl.conf"),
    ]


def _restorations(access: HostAccess, settings: Settings) -> list[Callable[[], Iterator[str]]]:
    return [partial(_check_engine_environment, settings), access.restore]


def _check_engine_environment(settings: Settings) -> Iterator[str]:
    """Without the drop-in, the engine would get these variables. Raises SlotError."""
    from retrain_worker.adapters import engine_environment
    from retrain_worker.errors import SlotError

    path = settings.engine_env_file
    refused = engine_environment.refused_names(settings.engine_unit, path) if path.exists() else []
    if refused:
        raise SlotError(f"{', '.join(refused)} will be in force again", where=str(path), remedy="remove the line")
    yield from ()


def _protect_engine(access: HostAccess, settings: Settings) -> Iterator[str]:
    from retrain_worker.adapters import engine_environment

    kept = engine_environment.values_of_root(settings.engine_unit, settings.engine_env_file)
    for path, text in engine_environment.texts(settings.engine_unit, kept).items():
        yield from access.add_file(path, text)


def _keep_list(access: HostAccess, env_file: Path, drop_in: Path) -> Iterator[str]:
    if access.has_list_for_others(env_file):
        yield from access.add_file(drop_in, _KEEP_ACL_TEXT)
