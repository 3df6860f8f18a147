"""POSIX access control lists (acl(5)) in the form of the extended attribute `system.posix_acl_access`."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping

ATTRIBUTE = "system.posix_acl_access"
#: tags of linux/posix_acl.h
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF

#: (tag, id) -> permission bits, 4 read, 2 write, 1 execute
Entries = Mapping[tuple[int, int], int]


def read(fd: int) -> bytes | None:
    """The attribute of an open file; None where the mode is complete, or the file system has no lists."""
    try:
        return os.getxattr(fd, ATTRIBUTE)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def write(fd: int, attribute: bytes | None) -> None:
    """Set the attribute of an open file; None: remove it."""
    if attribute is not None:
        os.setxattr(fd, ATTRIBUTE, attribute)
    elif read(fd) is not None:
        os.removexattr(fd, ATTRIBUTE)


def entries_of(fd: int) -> dict[tuple[int, int], int]:
    """The entries of an open file; those of its mode where it has no list."""
    attribute, mode = read(fd), os.fstat(fd).st_mode
    if attribute is None:
        return {(tag, _NO_ID): mode >> shift & 7 for tag, shift in ((USER_OBJ, 6), (GROUP_OBJ, 3), (OTHER, 0))}
    return decoded(attribute)


def decoded(attribute: bytes) -> dict[tuple[int, int], int]:
    """The entries of an attribute."""
    return {(tag, number): bits for tag, bits, number in _ENTRY.iter_unpack(attribute[_VERSION.size :])}


def effective(entries: Entries, uid: int) -> int:
    """The permissions of a named user, which the mask limits: chmod(1) changes the mask."""
    return entries.get((USER, uid), 0) & entries.get((MASK, _NO_ID), 7)


def encoded(entries: Entries) -> bytes:
    """The attribute of these entries, with the mask that gives each named user and group its permissions."""
    known = dict(entries)
    named = [bits for (tag, _number), bits in known.items() if tag in (USER, GROUP, GROUP_OBJ)]
    known[MASK, _NO_ID] = 0
    for bits in named:
        known[MASK, _NO_ID] |= bits
    packed = (_ENTRY.pack(tag, bits, number) for (tag, number), bits in sorted(known.items()))
    return _VERSION.pack(2) + b"".join(packed)
