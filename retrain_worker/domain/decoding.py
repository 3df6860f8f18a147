"""Values that other processes have written, decoded within limits. MalformedError is all that is raised.

For entries and hashes of Redis; typed_json does the same for files. Bytes that are not UTF-8 are replaced, so text is
always valid Unicode; a JSON string with half of a surrogate pair is refused, because nothing could store or print it.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from retrain_worker.errors import MalformedError

#: of one entry or hash; the client (bounded_replies) keeps no more of it
MAX_BYTES = 2**20
MAX_FIELDS = 512
MAX_DEPTH = 32
#: of a name: version, run, consumer, symbol
MAX_NAME = 200
#: a path of Linux has at most this many bytes
MAX_PATH = 4096
#: instants outside are errors or attacks: no clock of a host shows them
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
#: a larger number is one of milliseconds: as seconds it would lie after the year 5000
_MILLISECONDS_FROM = 1e11
_MAX_DIGITS = 18
_SHOWN = 40
Parameters = ParamSpec("Parameters")
Decoded = TypeVar("Decoded")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class OversizedValue(bytes):
    """Takes the place of a value in a reply of Redis that was longer than the limit: empty."""

    #: bytes of the value
    length: int


def raises_malformed_only(decode: Callable[Parameters, Decoded]) -> Callable[Parameters, Decoded]:
    """`decode`, whose unexpected exceptions become a MalformedError: one entry never stops the reading of others."""

    @functools.wraps(decode)
    def guarded(*arguments: Parameters.args, **options: Parameters.kwargs) -> Decoded:
        try:
            return decode(*arguments, **options)
        except MalformedError:
            raise
        except Exception as error:
            raise MalformedError(f"unexpected {type(error).__name__}: {str(error)[:MAX_NAME]!r}") from error

    return guarded


def fields_in(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """The fields of an entry or a hash as text. Raises MalformedError when they are over a limit."""
    if len(raw) > MAX_FIELDS:
        raise MalformedError(f"it has more than {MAX_FIELDS} fields")
    for name, value in raw.items():
        for part in (name, value):
            if isinstance(part, OversizedValue):
                raise MalformedError(f"it has a field of {part.length:,} bytes; an entry has at most {MAX_BYTES:,}")
    if sum(len(name) + len(value) for name, value in raw.items()) > MAX_BYTES:
        raise MalformedError(f"it has more than {MAX_BYTES:,} bytes")
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in raw.items()}


def json_object(text: str, name: str) -> dict[str, Any]:
    """A JSON object. Raises MalformedError."""
    found = json_value(text, name)
    if not isinstance(found, dict):
        raise MalformedError(f"{name} is a JSON {type(found).__name__}, not an object")
    return found


def json_value(text: str, name: str) -> Any:
    """A JSON value. Numbers of more than 18 digits become floats, which may be infinite. Raises MalformedError."""
    if len(text) > MAX_BYTES:
        raise MalformedError(f"{name} has more than {MAX_BYTES:,} characters")
    try:
        found = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        raise MalformedError(f"{name} is not JSON") from None
    _check(found, name, MAX_DEPTH)
    return found


def instant(text: str, name: str) -> datetime:
    """An instant as ISO 8601, or as seconds or milliseconds since the epoch, in UTC. Raises MalformedError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    try:
        if math.isfinite(number):
            found = datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS_FROM else number, UTC)
        else:
            found = datetime.fromisoformat(text)
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise MalformedError(f"{name} {text[:_SHOWN]!r} is neither ISO 8601 nor a time since the epoch") from None
    if not EARLIEST <= found < LATEST:
        raise MalformedError(f"{name} {text[:_SHOWN]!r} is not between {EARLIEST.year} and {LATEST.year}")
    return found


def count(text: str, name: str) -> int:
    """A number of at most 18 digits. Raises MalformedError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise MalformedError(f"{name} {text[:_SHOWN]!r} is not a number")
    return int(text)


def finite_number(value: object, name: str) -> float:
    """A number that is neither infinite nor NaN. Raises MalformedError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedError(f"{name} is not a finite number")
    return float(value)


def line(value: object, name: str, *, longest: int = MAX_NAME) -> str:
    """Printable text without a line break; a number as text; None is empty. Raises MalformedError."""
    text = "" if value is None else str(value) if isinstance(value, int | float) else value
    if not isinstance(text, str):
        raise MalformedError(f"{name} is not text")
    if len(text) > longest:
        raise MalformedError(f"{name} has more than {longest} characters")
    if not text.isprintable():
        raise MalformedError(f"{name} {text[:_SHOWN]!r} holds characters that cannot be printed")
    return text


def is_sha256(text: str) -> bool:
    """Whether it is a sha256 in lower-case hex."""
    return _SHA256.fullmatch(text) is not None


def sha256(value: object, name: str) -> str:
    """A sha256 in lower-case hex. Raises MalformedError."""
    if not (isinstance(value, str) and is_sha256(value)):
        raise MalformedError(f"{name} is not a sha256")
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _check(value: object, name: str, depth: int) -> None:
    """Raise MalformedError when the value is nested deeper, or holds text that is not valid Unicode."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise MalformedError(f"{name} holds text that is not valid Unicode")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise MalformedError(f"{name} is nested deeper than {MAX_DEPTH} levels")
        for each in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            _check(each, name, depth - 1)
