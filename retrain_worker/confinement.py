"""Takes from a worker what it does not need: it writes below the given folders only, and gains no privileges.

Landlock (landlock(7), Linux 5.13): a process restricts itself and its children for good, without privileges. Called
through ctypes: the package `landlock` on PyPI is a development release of 2023 that knows neither TCP nor signals.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

#: numbers of the system calls, the same on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
#: WRITE_FILE, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR .. MAKE_SYM: each access that changes a file system
_WRITES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
#: by the version that introduced it
_REFER, _SCOPES = 1 << 13, 0b11
_BIND_AND_CONNECT_TCP = 0b11
_REFER_SINCE, _TRUNCATE_SINCE, _TCP_SINCE, _SCOPES_SINCE = 2, 3, 4, 6
#: written by libraries: /dev/null, and GPUs
_DEVICES = Path("/dev")


_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The version of Landlock that this kernel has; 0: none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)))


def confine(*, writable: Iterable[Path], uses_network: bool) -> int:
    """Restrict this process; the version of Landlock that does, 0 when the kernel has none.

    It writes below `writable` only, has TCP only with `uses_network`, and signals no process but those it starts.
    Raises OSError when a folder does not exist.
    """
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    known = version()
    if not known:
        return 0
    handled = _WRITES | (_REFER if known >= _REFER_SINCE else 0) | (_TRUNCATE if known >= _TRUNCATE_SINCE else 0)
    # struct landlock_ruleset_attr; an older kernel refuses fields that it does not know
    fields = [handled]
    if known >= _TCP_SINCE:
        fields.append(0 if uses_network else _BIND_AND_CONNECT_TCP)
    if known >= _SCOPES_SINCE:
        fields.append(_SCOPES)
    rules = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0))
    try:
        for folder in writable:
            _allow(ruleset, folder, handled)
        _allow(ruleset, _DEVICES, handled & (_WRITE_FILE | _TRUNCATE))
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return known


def _allow(ruleset: int, folder: Path, access: int) -> None:
    fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", access, fd)  # struct landlock_path_beneath_attr
        _checked(_libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
