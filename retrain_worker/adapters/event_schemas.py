"""JSON Schemas of the published data, and the AsyncAPI document that refers to them.

msgspec derives them from the types of `domain.payloads`; what `Described` adds is filled in here.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from retrain_worker.domain import payloads
from retrain_worker.domain.events import REQUEST_STREAM, SCHEMA_VERSION, SERVED_STREAM, STREAM_PREFIX, stream_of
from retrain_worker.domain.payload_fields import NO_EXAMPLE, merged
from retrain_worker.domain.typed_events import PAYLOADS

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TO_WORKER = tuple(stream.removeprefix(STREAM_PREFIX) for stream in (REQUEST_STREAM, SERVED_STREAM))


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> document. Additional fields are allowed everywhere: a newer version may add some."""
    named = {**PAYLOADS, "entry": payloads.Entry, "current_model": payloads.CurrentModelFields}
    return {f"{name}.json": _schema(name, named[name]) for name in sorted(named)} | {"asyncapi.json": asyncapi()}


def asyncapi() -> dict[str, Any]:
    """The streams as an AsyncAPI 3 document: a channel for each, with the operation of the worker."""
    components = _definitions(tuple({*PAYLOADS.values(), payloads.Entry}), "#/components/schemas/{name}")
    messages = {
        kind: {
            "name": kind,
            "summary": payload.__doc__,
            "headers": {"$ref": "#/components/schemas/Entry"},
            "payload": {"$ref": f"#/components/schemas/{payload.__name__}"},
            "examples": [{"payload": _example(kind, payload)}],
        }
        for kind, payload in PAYLOADS.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "retrain_worker",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Each event is an entry of a Redis stream. Its fields, all text, are the headers of the "
            "message; its field `payload` holds the payload as JSON. docs/how-to/consume-events.md states what a "
            "consumer does.",
        },
        "defaultContentType": "application/json",
        "servers": {"redis": {"host": "localhost:6379", "protocol": "redis"}},
        "channels": {
            kind: {"address": stream_of(kind), "messages": {kind: {"$ref": f"#/components/messages/{kind}"}}}
            for kind in PAYLOADS
        },
        "operations": {
            kind: {
                "action": "receive" if kind in _TO_WORKER else "send",
                "channel": {"$ref": f"#/channels/{kind}"},
                "messages": [{"$ref": f"#/channels/{kind}/messages/{kind}"}],
            }
            for kind in PAYLOADS
        },
        "components": {"messages": messages, "schemas": components},
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write the documents to `folder`, which is created; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, document in schemas().items():
        (folder / name).write_bytes(as_text(document))
        written.append(folder / name)
    return written


def as_text(document: dict[str, Any]) -> bytes:
    """A document as the content of its file."""
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def example_of(kind: Any) -> Any:
    """A value of `kind`, made of the examples of its fields."""
    metadata: tuple[Any, ...] = ()
    while get_origin(kind) in (Annotated, NotRequired):
        if get_origin(kind) is Annotated:
            metadata = (*kind.__metadata__, *metadata)
        kind = get_args(kind)[0]
    example = merged(metadata).example
    if example is not NO_EXAMPLE:
        return example
    if is_typeddict(kind):
        return {name: example_of(field) for name, field in get_type_hints(kind, include_extras=True).items()}
    if get_origin(kind) is list:
        return [example_of(get_args(kind)[0])]
    if get_origin(kind) in (Union, types.UnionType):
        return example_of(get_args(kind)[0])
    raise TypeError(f"{kind} has no example")


def _schema(name: str, kind: Any) -> dict[str, Any]:
    return {
        "$schema": _DIALECT,
        "$id": f"urn:retrain-worker:events:{SCHEMA_VERSION}:{name}",
        "$ref": f"#/$defs/{kind.__name__}",
        "$defs": _definitions((kind,), "#/$defs/{name}"),
        "examples": [_example(name, kind)],
    }


def _example(name: str, kind: Any) -> dict[str, Any]:
    """The example of a document; some payloads name the event type."""
    example: dict[str, Any] = example_of(kind)
    return example | ({"type": name} if "type" in example and name in PAYLOADS else {})


def _definitions(kinds: tuple[Any, ...], ref_template: str) -> dict[str, Any]:
    """Type name -> schema, of these types and those within them."""
    _, found = msgspec.json.schema_components(kinds, ref_template=ref_template)
    for kind in _types_within(kinds):
        for name, field in get_type_hints(kind, include_extras=True).items():
            found[kind.__name__]["properties"][name] |= _keywords(field)
    return found


def _keywords(kind: Any) -> dict[str, Any]:
    """What `Described` adds to a field."""
    metadata, is_nullable = _unpacked(kind)
    known = merged(metadata)
    return {
        "description": known.description,
        **({"format": known.format} if known.format else {}),
        **({"pattern": known.pattern} if known.pattern else {}),
        **({"enum": [*known.values, *([None] if is_nullable else [])]} if known.values else {}),
        **({"examples": [known.example]} if known.example is not NO_EXAMPLE else {}),
    }


def _unpacked(kind: Any) -> tuple[tuple[Any, ...], bool]:
    """The metadata of a field, the inner ones first, and whether it may be null."""
    if get_origin(kind) is Annotated:
        inner, is_nullable = _unpacked(get_args(kind)[0])
        return (*inner, *kind.__metadata__), is_nullable
    if get_origin(kind) is NotRequired:
        return _unpacked(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        members = [_unpacked(member)[0] for member in get_args(kind)]
        return sum(members, ()), types.NoneType in get_args(kind)
    return (), False


def _types_within(kinds: tuple[Any, ...]) -> set[Any]:
    """These TypedDicts and those that their fields contain."""
    found: set[Any] = set()
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if is_typeddict(kind):
            if kind not in found:
                found.add(kind)
                waiting += get_type_hints(kind).values()
        else:
            waiting += get_args(kind)
    return found
