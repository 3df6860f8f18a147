"""What would keep a swap from working, found before one is tried; nothing is changed."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

from retrain_worker import durable_file

#: what is wrong, and what to do
Problem = tuple[str, str]


def slot_problems(
    *, engine_models_dir: Path, engine_env_file: Path, trigger_file: Path | None, serving_user: str | None,
    reserve_bytes: int,
) -> list[Problem]:
    """The problems of directories, rights and space; those of the env file's content are not looked at."""
    found = _directory_problems(engine_models_dir, "ENGINE_MODELS_DIR")
    found += _directory_problems(engine_env_file.parent, "ENGINE_ENV_FILE")
    if trigger_file is not None:
        found += _directory_problems(trigger_file.parent, "the trigger file")
    if engine_env_file.is_mount():
        found.append((f"{engine_env_file} is a mount point of its own, so it cannot be replaced",
                      f"grant its directory: ReadWritePaths={engine_env_file.parent}"))
    if engine_models_dir.is_dir() and (free := durable_file.free_bytes(engine_models_dir)) < reserve_bytes:
        found.append((f"{engine_models_dir} has {free} bytes free", f"keep at least {reserve_bytes} bytes free"))
    if serving_user is not None:
        found += serving_problems(engine_models_dir, serving_user)
    return found


def _directory_problems(directory: Path, name: str) -> list[Problem]:
    if not directory.is_dir():
        return [(f"{directory} ({name}) is not a directory",
                 f"sudo install -d -o {_user()} -m 2755 {_quoted(directory)}")]
    if not os.access(directory, os.W_OK | os.X_OK):
        return [(f"{directory} ({name}) cannot be written by {_user()}; a rename needs the directory",
                 f"sudo chgrp {_group()} {_quoted(directory)} && sudo chmod g+rwx {_quoted(directory)}")]
    if directory.stat().st_mode & stat.S_IWOTH and not directory.stat().st_mode & stat.S_ISVTX:
        return [(f"{directory} ({name}) can be written by everybody", f"chmod o-w {directory}")]
    return []


def _user() -> str:
    """This process's user, by name where it has one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group() -> str:
    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def serving_problems(engine_models_dir: Path, user: str) -> list[Problem]:
    """Whether `user` can enter where models are published. Access control lists are not looked at."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return [(f"the serving user {user} does not exist", "name the user that the engine runs as")]
    if entry.pw_uid == 0 or not engine_models_dir.is_dir():
        return []
    return _unreadable(engine_models_dir.resolve(), (), entry)


def reading_problems(model: Path, user: str) -> list[Problem]:
    """Whether `user` can reach and read this one model file, which is there."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return [(f"the serving user {user} does not exist", "name the user that the engine runs as")]
    if entry.pw_uid == 0:
        return []
    return _unreadable(model.parent.resolve(), (model,), entry)


def _unreadable(directory: Path, models: Iterable[Path], entry: pwd.struct_passwd) -> list[Problem]:
    user, groups = entry.pw_name, os.getgrouplist(entry.pw_name, entry.pw_gid)
    closed = [path for path in (directory, *directory.parents) if not _may(path, entry.pw_uid, groups, stat.S_IXOTH)]
    unreadable = [path for path in models if not _may(path, entry.pw_uid, groups, stat.S_IROTH)]
    return [
        *((f"{user} cannot enter {path}", f"chmod o+x {path}, or share a group") for path in closed),
        *((f"{user} cannot read {path}", f"chmod o+r {path}, or share a group") for path in unreadable),
    ]


def _may(path: Path, uid: int, groups: list[int], bit_of_others: int) -> bool:
    found = path.stat()
    if found.st_uid == uid:
        return bool(found.st_mode & bit_of_others << 6)
    if found.st_gid in groups:
        return bool(found.st_mode & bit_of_others << 3)
    return bool(found.st_mode & bit_of_others)
