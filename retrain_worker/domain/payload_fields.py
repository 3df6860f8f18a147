"""What a field of a published payload holds beside its type: description, example, format, values.

The metadata stand in `Annotated`; the JSON Schemas and the AsyncAPI document are generated from them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

NO_EXAMPLE: Any = object()


@dataclass(frozen=True)
class Described:
    """The keywords of a field in its JSON Schema. In a nested `Annotated` the outer one takes precedence."""

    description: str = ""
    #: a typical value; NO_EXAMPLE: the fields of its type have examples
    example: Any = NO_EXAMPLE
    #: like date-time, which a validator may check
    format: str = ""
    pattern: str = ""
    #: the values of today; a newer version may add some
    values: tuple[str, ...] = ()


def merged(metadata: tuple[Any, ...]) -> Described:
    """What the metadata of one field contain together."""
    chosen: dict[str, Any] = {}
    for each in metadata:
        if isinstance(each, Described):
            given = {field.name: getattr(each, field.name) for field in fields(each)}
            chosen |= {name: value for name, value in given.items() if value != getattr(Described, name)}
    return Described(**chosen)


Instant = Annotated[str, Described("ISO 8601, UTC", "2026-01-10T03:41:07.250000+00:00", format="date-time")]
RunId = Annotated[str, Described("the run: the instant of its start, UTC", "20260110_033000")]
Version = Annotated[str, Described("the version of the model", "patchtst_v20260110_033000")]
ModelPath = Annotated[str, Described("the model file", "/opt/quantum/ai_engine/models/patchtst_v20260110_033000.pth")]
ModelUrl = Annotated[
    str,
    Described(
        "where the model file, its .sha256 and its .json can be fetched; empty or absent: nowhere",
        "s3://models/btc/patchtst_v20260110_033000.pth",
    ),
]
Sha256 = Annotated[
    str, Described("hash of the model file; empty: no model", "9f86d081" * 8, pattern="^([0-9a-f]{64})?$")
]
NumBytes = Annotated[int, Described("size of the model file", 2_457_890)]
Actor = Annotated[str, Described("the schedule, or the operator or program that requested it", "schedule")]
EventId = Annotated[
    str,
    Described("equal for every publication of the event", "5ad17c09-1e8b-56b9-8926-d9131d8e3693"),
]
Auc = Annotated[float | None, Described("area under the ROC curve; null: not measured", 0.712)]
LogLoss = Annotated[float | None, Described("log loss in nats; null: not measured", 0.611)]
Metric = Annotated[float | None, Described("null: not measured", 0.66)]
ShadowOnly = Annotated[bool, Described("PATCHTST_SHADOW_ONLY of the engine: its answers open no trade", True)]
