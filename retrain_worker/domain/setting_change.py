"""A setting whose value differs from an earlier one, without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from retrain_worker.domain import connection_url
from retrain_worker.domain.masking import MASK, is_secret_name, masked


@dataclass(frozen=True, kw_only=True)
class SettingChange:
    """The former value and the new one, as they may be shown."""

    name: str
    old: str
    new: str

    @property
    def message(self) -> str:
        """`MAX_EPOCHS: 40 → 20`."""
        return f"{self.name}: {self.old or '(empty)'} → {self.new or '(empty)'}"


def shown(name: str, value: str) -> str:
    """`value` as it may be shown."""
    if value and is_secret_name(name):
        return MASK
    return connection_url.shown(value) if "://" in value else masked(value)


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[SettingChange]:
    """Each setting of `new` (name -> value) whose value differs from the one in `old`."""
    for name, value in new.items():
        if value != old.get(name, ""):
            yield SettingChange(name=name, old=shown(name, old.get(name, "")), new=shown(name, value))
