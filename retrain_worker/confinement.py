"""Takes from a worker what it does not need: it reads and writes the given files only, and gains no privileges.

Landlock (landlock(7), Linux 5.13): a process restricts itself and its children for good, without privileges. Called
through ctypes: the package `landlock` on PyPI is a development release of 2023 that knows neither TCP nor signals.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

#: numbers of the system calls, the same on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_READS = _READ_FILE | _READ_FOLDER
#: WRITE_FILE, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR .. MAKE_SYM: each access that changes a file system
_WRITES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
#: what a rule of a file, not a folder, may hold
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE
#: by the version that introduced it
_REFER, _ABSTRACT_SOCKETS, _SIGNALS = 1 << 13, 0b01, 0b10
_BIND_AND_CONNECT_TCP = 0b11
_REFER_SINCE, _TRUNCATE_SINCE, _TCP_SINCE, _SCOPES_SINCE = 2, 3, 4, 6
#: written by libraries: /dev/null, and GPUs
_DEVICES = Path("/dev")
#: programs and libraries, what they read of the machine, names of users and hosts, certificates; no other process
_SYSTEM = """
/usr /lib /lib32 /lib64 /bin /sbin /nix/store /gnu/store /dev /sys
/proc/self /proc/sys /proc/cpuinfo /proc/meminfo /proc/stat /proc/loadavg /proc/uptime /proc/version /proc/filesystems
/proc/devices /proc/modules /proc/driver
/etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/localtime /etc/timezone /etc/locale.alias /etc/os-release
/etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /etc/host.conf /etc/hostname /etc/resolv.conf /etc/gai.conf
/etc/services /etc/protocols /run/systemd/resolve /var/lib/sss/mc /etc/ssl /etc/pki /etc/ca-certificates
/etc/crypto-policies /etc/krb5.conf /etc/krb5.conf.d /etc/mime.types /etc/OpenCL /etc/nvidia
"""


_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The version of Landlock that this kernel has; 0: none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)))


def confine(*, readable: Iterable[Path], writable: Iterable[Path], uses_network: bool, has_peers: bool = False) -> int:
    """Restrict this process; the version of Landlock that does, 0 when the kernel has none.

    It reads `readable`, `writable`, and what every program of this interpreter needs; it writes `writable` only, has
    TCP only with `uses_network`, and signals no process but those it starts. Paths that do not exist are left out.
    `has_peers`: it may use abstract unix sockets of other processes, as NCCL does between two GPUs of a host.
    """
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    known = version()
    if not known:
        return 0
    writes = _WRITES | (_REFER if known >= _REFER_SINCE else 0) | (_TRUNCATE if known >= _TRUNCATE_SINCE else 0)
    # struct landlock_ruleset_attr; an older kernel refuses fields that it does not know
    fields = [writes | _READS]
    if known >= _TCP_SINCE:
        fields.append(0 if uses_network else _BIND_AND_CONNECT_TCP)
    if known >= _SCOPES_SINCE:
        fields.append(_SIGNALS if has_peers else _SIGNALS | _ABSTRACT_SOCKETS)
    rules = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0))
    try:
        for path in (*map(Path, _SYSTEM.split()), *_interpreter(), *readable):
            _allow(ruleset, path, _READS)
        for path in writable:
            _allow(ruleset, path, writes | _READS)
        _allow(ruleset, _DEVICES, writes & (_WRITE_FILE | _TRUNCATE))
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return known


def _interpreter() -> Iterator[Path]:
    """Where this interpreter and this program are."""
    package = Path(__file__).parent
    yield package
    # not the checkout that the package may be in, which may hold a --home as well
    yield from (Path(entry) for entry in sys.path if entry and Path(entry) != package.parent)
    yield from map(Path, (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix))
    yield from (Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry)


def _allow(ruleset: int, path: Path, access: int) -> None:
    """Does nothing where this process cannot find the path."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    # of /proc/self: the kernel knows the folder by an inode that it keeps only while it is used
    is_kept = path.is_relative_to("/proc")
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, fd)  # struct landlock_path_beneath_attr
        _checked(_libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        if not is_kept:
            os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
