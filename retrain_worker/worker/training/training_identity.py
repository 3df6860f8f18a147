"""The identity of a training: what decides its weights. It is stored with a state and compared field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from itertools import chain
from typing import Any

import msgspec


def as_json(identity: Mapping[str, Any]) -> str:
    """The stored form of an identity."""
    return msgspec.json.encode(identity).decode()


def difference(stored: str, identity: Mapping[str, Any]) -> str | None:
    """The first field in which a stored identity is not `identity`; None if both give the same weights.

    A field that an upgrade has added counts as stored with its default.
    """
    try:
        before = _leaves(_defaults(identity)) | _leaves(json.loads(stored))
    except ValueError:
        return "its identity cannot be read"
    now = _leaves(json.loads(as_json(identity)))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name)} and is {now.get(name)}"
    return None


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Dotted name and value of everything in a JSON value that is neither an object nor a list of objects."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {name: value}
    inner = (_leaves(each, f"{name}.{key}" if name else str(key)) for key, each in value.items())
    return dict(chain.from_iterable(leaves.items() for leaves in inner))


def _defaults(value: Any) -> Any:
    """The defaults of all dataclass fields in `value`, as a JSON value without leaves for anything else."""
    if is_dataclass(value):
        own = {field.name: field.default for field in fields(value) if field.default is not MISSING}
        nested = {field.name: _defaults(getattr(value, field.name)) for field in fields(value)}
        return nested | json.loads(as_json(own))
    if isinstance(value, Mapping):
        return {key: _defaults(inner) for key, inner in value.items()}
    return dict(enumerate(_defaults(inner) for inner in value)) if isinstance(value, tuple) else {}
