"""Access to the slot (directories, rights, space) that a swap needs, checked before it is tried. Nothing is changed."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.adapters.account_names import SERVICE_USER, group_name, user_name
from retrain_worker.domain.env_file import PLAIN_VALUE
from retrain_worker.domain.host_names import HostNames
from retrain_worker.domain.printable import printable

#: cause, and remedy
Problem = tuple[str, str]


def slot_problems(
    *,
    engine_models_dir: Path,
    engine_env_file: Path,
    trigger_file: Path | None,
    serving_user: str | None,
    reserve_bytes: int,
    host_names: HostNames,
) -> list[Problem]:
    """Problems with directories, rights and space; the content of the env file is not checked."""
    found = _directory_problems(engine_models_dir, "ENGINE_MODELS_DIR", host_names)
    if not PLAIN_VALUE.fullmatch(str(engine_models_dir)):
        found.append(
            (
                f"{printable(engine_models_dir)} (ENGINE_MODELS_DIR) cannot be written to an env file",
                "use a path of letters, digits and . _ / + - only",
            )
        )
    found += _directory_problems(engine_env_file.parent, "ENGINE_ENV_FILE", host_names)
    if trigger_file is not None:
        found += _directory_problems(trigger_file.parent, "directory of the trigger file", host_names)
    found += _env_file_problems(engine_env_file, host_names)
    if engine_models_dir.is_dir() and (free := durable_file.free_bytes(engine_models_dir)) < reserve_bytes:
        found.append(
            (f"{engine_models_dir}: {free:,} bytes free, {reserve_bytes:,} needed", "free space on this file system")
        )
    if serving_user is not None:
        found += serving_problems(engine_models_dir, serving_user)
    return found


def _directory_problems(directory: Path, name: str, host_names: HostNames) -> list[Problem]:
    if not directory.is_dir():
        return [
            (
                f"{directory} ({name}) is not a directory",
                f"sudo install -d -o {user_name()} -m 2755 {_quoted(directory)}",
            )
        ]
    if remedy := read_only_remedy(directory, allow=directory, service=host_names.service):
        return [(f"{directory} ({name}) is read-only for the service", remedy)]
    if not os.access(directory, os.W_OK | os.X_OK):
        return [
            (
                f"{directory} ({name}) is not writable for {user_name()}",
                _granting(
                    f"sudo chgrp {group_name()} {_quoted(directory)} && sudo chmod g+rwx {_quoted(directory)}",
                    host_names,
                ),
            )
        ]
    if directory.stat().st_mode & stat.S_IWOTH and not directory.stat().st_mode & stat.S_ISVTX:
        return [(f"{directory} ({name}) is writable for all users", f"chmod o-w {directory}")]
    return []


def _env_file_problems(env_file: Path, host_names: HostNames) -> list[Problem]:
    """Whether the file can be replaced by one with the same owner and mode."""
    if _is_mount_point(env_file):
        return [
            (
                f"{env_file} is a mount point and cannot be replaced",
                f"grant its directory instead: ReadWritePaths={env_file.parent}",
            )
        ]
    try:
        found = env_file.lstat()
    except OSError:
        return []  # reported where the file is read
    if os.geteuid() != 0 and not (found.st_uid == os.geteuid() and found.st_gid in {os.getegid(), *os.getgroups()}):
        return [
            (
                f"{env_file} belongs to {user_name(found.st_uid)}:{group_name(found.st_gid)}, "
                f"which {user_name()} cannot give to the file that replaces it",
                _granting(f"sudo chown {user_name()}:{group_name()} {_quoted(env_file)}", host_names),
            )
        ]
    if not found.st_mode & stat.S_IWUSR:
        return [(f"{env_file} is read-only", f"sudo chmod u+w {_quoted(env_file)}")]
    return []


def _is_mount_point(path: Path) -> bool:
    """Whether a file system or a single file is mounted at `path`."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    return any(_unescaped(line.split()[4]) == os.fsencode(os.path.realpath(path)) for line in mounts)


def _unescaped(name: bytes) -> bytes:
    """A name of /proc/self/mountinfo, where blanks and backslashes are octal."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), name)


def read_only_remedy(directory: Path, *, allow: Path, service: str) -> str:
    """The drop-in that lets the service write to `allow`; empty where the file system is not read-only here."""
    if not os.statvfs(directory).f_flag & os.ST_RDONLY:
        return ""
    drop_in = f"/etc/systemd/system/{service}.d/paths.conf"
    return (
        f"printf '[Service]\\nReadWritePaths=%s\\n' {_quoted(allow)} | sudo install -D -m 644 /dev/stdin {drop_in} && "
        "sudo systemctl daemon-reload"
    )


def _granting(command: str, host_names: HostNames) -> str:
    """For the service there is a command that can be undone."""
    return f"sudo {host_names.command} access grant" if user_name() == SERVICE_USER else command


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def serving_problems(engine_models_dir: Path, user: str) -> list[Problem]:
    """Whether `user` can enter the directory of models. Access control lists are not evaluated."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return [(f"ENGINE_USER: no user {user}", "set it to the user that runs the engine")]
    if entry.pw_uid == 0 or not engine_models_dir.is_dir():
        return []
    return _unreadable(engine_models_dir.resolve(), (), entry)


def reading_problems(model: Path, user: str) -> list[Problem]:
    """Whether `user` can read an existing model file."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return [(f"ENGINE_USER: no user {user}", "set it to the user that runs the engine")]
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
