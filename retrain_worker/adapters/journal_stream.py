"""Whether a stream of this process leads to the journal."""

from __future__ import annotations

import os

#: before a line on such a stream: its priority is error, sd-daemon(3)
ERROR_MARK = "<3>"


def is_journal(fd: int) -> bool:
    """Whether the descriptor leads to the journal ($JOURNAL_STREAM holds its device and inode)."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
