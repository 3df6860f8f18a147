"""Typed reading of environment variables; every problem is collected, none ends the reading."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from retrain_worker.domain.masking import masked
from retrain_worker.domain.printable import printable
from retrain_worker.domain.quantity import as_number

EnumType = TypeVar("EnumType", bound=StrEnum)
Number = TypeVar("Number", int, float)

_MAX_COUNT = 2**62
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Reader:
    """Reads typed values by name; an invalid value reads as its default."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        #: every name that was read, with its default, and with the value that counts, as text
        self.defaults: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self._environment = environment

    def is_given(self, name: str) -> bool:
        """Whether `name` has a value that is not empty."""
        return bool(self._environment.get(name, "").strip())

    def text(self, name: str, default: str) -> str:
        """One line of text, without surrounding blanks; an empty value reads as the default."""
        value = self._line(name, default)
        if _is_utf8(value):
            return value
        self.problems.append(f"{name}: the value is not valid UTF-8")
        self.values[name] = default
        return default

    def path(self, name: str, default: str, *, instead: Path | None = None) -> Path:
        """An absolute path in UTF-8; ~ is expanded. With `instead` that path, whatever valid value is given."""
        value = self._path(name, default)
        if instead is None:
            return value
        self.values[name] = str(instead)
        return instead

    def _path(self, name: str, default: str) -> Path:
        value = Path(self._line(name, default))
        with contextlib.suppress(RuntimeError, UnicodeEncodeError):  # that user has no home directory, or is none
            value = value.expanduser()
        if not value.is_absolute():
            self._reject(name, str(value), "an absolute path")
        elif not _is_utf8(str(value)):
            self._reject(name, printable(value), "valid UTF-8")
        else:
            return value
        return Path(default)

    def optional_path(self, name: str) -> Path | None:
        """An absolute path in UTF-8; None when no value is given."""
        return self.path(name, "") if self.text(name, "") else None

    def number(self, name: str, default: float, *, low: float = 0.0, high: float = math.inf) -> float:
        """A finite number in [low, high]. It may have a unit: % or one of the kind that the name ends with."""
        return self._in_range(name, float, low=low, high=high, default=f"{default:g}")

    def optional_number(self, name: str, *, low: float, high: float) -> float | None:
        """A finite number in [low, high]; None when no value is given."""
        if not self.text(name, ""):
            return None
        return self._in_range(name, float, low=low, high=high, default="")

    def count(self, name: str, default: int, *, low: int = 0, high: int = _MAX_COUNT) -> int:
        """A whole number in [low, high]."""
        return self._in_range(name, int, low=low, high=high, default=str(default))

    def share(self, name: str, default: float) -> float:
        """A number in [0, 1]."""
        return self.number(name, default, low=0.0, high=1.0)

    def flag(self, name: str, *, default: bool) -> bool:
        """true, false, 1, 0, yes or no, in any case."""
        value = self.text(name, "true" if default else "false")
        found = _FLAGS.get(value.lower())
        if found is None:
            self._reject(name, value, "true or false")
            return default
        return found

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """One of `choices`, in any case."""
        value = self.text(name, default)
        for known in choices:
            if value.lower() == known.lower():
                return known
        self._reject(name, value, f"one of {', '.join(choices)}")
        return default

    def members(self, name: str, default: tuple[EnumType, ...]) -> tuple[EnumType, ...]:
        """Members of the enum that `default` belongs to, by their values, separated by commas."""
        kind = type(default[0])
        values = [value.strip().upper() for value in self.text(name, ",".join(default)).split(",")]
        if unknown := [value for value in values if value not in set(kind)]:
            self._reject(name, ", ".join(unknown), f"one of {', '.join(kind)}")
            return default
        return tuple(kind(value) for value in values)

    def member(self, name: str, default: EnumType) -> EnumType:
        """A member of the enum that `default` belongs to, by its value."""
        members = type(default)
        return members(self.choice(name, default, tuple(members)))

    def _line(self, name: str, default: str) -> str:
        self.defaults[name] = default
        value = self._environment.get(name, "").strip() or default
        if "\n" in value or "\0" in value:
            self.problems.append(f"{name}: the value is not one line of text")
            value = default
        self.values[name] = value
        return value

    def _in_range(self, name: str, kind: Callable[[str], Number], *, low: float, high: float, default: str) -> Number:
        given = self.text(name, default)
        try:
            value = kind(as_number(given, name=name))
            is_number = math.isfinite(value)
        except (ValueError, OverflowError):
            is_number = False
        if not is_number:
            self._reject(name, given, "a whole number" if kind is int else "a number")
        elif not low <= value <= high:
            self._reject(name, given, f"at least {low:g}" if high >= _MAX_COUNT else f"between {low:g} and {high:g}")
        else:
            return value
        return kind(default or "0")

    def _reject(self, name: str, value: str, expected: str) -> None:
        self.problems.append(f'{name}: "{masked(value)}" is not {expected}')
        self.values[name] = self.defaults[name]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
