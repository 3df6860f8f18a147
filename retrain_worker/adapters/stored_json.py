"""The columns of the state database that hold JSON, decoded so that one value that cannot be read affects no other row.

Unknown names are ignored, absent ones have the defaults of the domain. The facts of each stage are decoded by
themselves; those that cannot be read are named in RunFacts.unreadable with the cause, and the stage that needs them
ends that run. A slot request whose arguments cannot be read is refused. Everything else is replaced by an empty value:
it is shown or published, and decides nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from retrain_worker import typed_json
from retrain_worker.domain.facts import FIELDS, RunFacts
from retrain_worker.domain.slot_request import SlotRequestArguments
from retrain_worker.errors import MalformedError

#: column -> what it holds
KINDS: dict[str, Any] = {
    "facts": RunFacts,
    "arguments": SlotRequestArguments,
    "reasons": tuple[str, ...],
    "seconds": dict[str, float],
    "payload": dict[str, Any],
    "flat": dict[str, str],
}


def encode(value: object) -> str:
    """The stored form."""
    return msgspec.json.encode(value).decode()


def decode(column: str, text: str) -> Any:
    """The value of `column`, whatever `text` is."""
    if column == "facts":
        return _facts(text)
    try:
        return typed_json.decode(text, KINDS[column])
    except MalformedError as error:
        return SlotRequestArguments(unreadable=str(error)) if column == "arguments" else KINDS[column]()


def _facts(text: str) -> RunFacts:
    found: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    try:
        document = typed_json.decode(text, dict[str, Any])
        unreadable |= typed_json.convert(document.get("unreadable") or {}, dict[str, str])
    except MalformedError as error:
        return RunFacts(unreadable=dict.fromkeys(FIELDS.values(), str(error)))
    for kind, name in FIELDS.items():
        if document.get(name) is None:
            continue
        try:
            found[name] = typed_json.convert(document[name], kind)
        except MalformedError as error:
            unreadable[name] = str(error)
    return RunFacts(**found, unreadable=unreadable)
