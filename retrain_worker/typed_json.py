"""JSON and plain values as typed ones (msgspec), one conversion at a time.

msgspec 0.22 describes a dataclass at its first conversion. Two threads that do so at once end the process with SIGSEGV.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import msgspec

Typed = TypeVar("Typed")
_lock = threading.Lock()


def convert(value: object, kind: type[Typed]) -> Typed:
    """`value`, of dicts, lists and scalars, as a `kind`. Raises msgspec.ValidationError."""
    with _lock:
        return msgspec.convert(value, kind)


def decode(content: bytes | str | msgspec.Raw, kind: type[Typed]) -> Typed:
    """JSON as a `kind`. Raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError."""
    with _lock:
        return msgspec.json.decode(content, type=kind)
