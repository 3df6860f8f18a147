"""JSON and plain values as typed ones (msgspec), within limits, one conversion at a time. Raises MalformedError only.

For files and stored values; domain.decoding does the same for Redis. Text that is not valid Unicode, numbers that do
not fit their type, and deeper nesting than msgspec follows are refused, whatever the type.

msgspec 0.22 describes a dataclass at its first conversion. Two threads that do so at once end the process with SIGSEGV.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import msgspec

from retrain_worker.errors import MalformedError

#: the largest files are results of workers, which name every row that was quarantined
MAX_BYTES = 256 * 2**20
Typed = TypeVar("Typed")
_lock = threading.Lock()


def convert(value: object, kind: type[Typed]) -> Typed:
    """`value`, of dicts, lists and scalars, as a `kind`. Raises MalformedError."""
    with _lock:
        try:
            return msgspec.convert(value, kind)
        except (msgspec.ValidationError, RecursionError, OverflowError) as error:
            raise MalformedError(str(error)) from error


def decode(content: bytes | str | msgspec.Raw, kind: type[Typed]) -> Typed:
    """JSON of at most MAX_BYTES as a `kind`. Raises MalformedError."""
    if not isinstance(content, msgspec.Raw) and len(content) > MAX_BYTES:
        raise MalformedError(f"it has more than {MAX_BYTES:,} bytes")
    with _lock:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            raise MalformedError(str(error)) from error
