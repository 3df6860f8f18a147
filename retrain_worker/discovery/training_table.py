"""Describes the training table of the source: schema, classes, range, symbols, features, and one masked row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from retrain_worker.discovery.databases import TABLE, Survey
from retrain_worker.discovery.progress import Progress
from retrain_worker.discovery.proof_pack import Column, FileFacts, Source, TrainingTable
from retrain_worker.discovery.read_only_sqlite import ReadOnlyConnection, read
from retrain_worker.domain.printable import printable

_MAX_SHOWN = 40
_SAMPLE = (
    "id",
    "symbol",
    "timestamp",
    "target_class",
    "prediction_confidence",
    "realized_pnl",
    "features",
    "feature_names",
)
_MAX_CELL = 80


class _Expected(NamedTuple):
    kind: str
    is_nullable: bool
    description: str


#: docs/reference/data-contract.md
EXPECTED: Mapping[str, _Expected] = {
    "id": _Expected("INTEGER", False, "primary key"),
    "symbol": _Expected("VARCHAR", False, "trading pair"),
    "timestamp": _Expected("DATETIME", False, "time of the decision, UTC"),
    "run_id": _Expected("INTEGER", True, "run that wrote the row"),
    "predicted_action": _Expected("VARCHAR", False, "the ensemble's decision: BUY, SELL, HOLD"),
    "prediction_score": _Expected("FLOAT", False, "raw score"),
    "prediction_confidence": _Expected("FLOAT", False, "confidence, 0 to 1"),
    "model_version": _Expected("VARCHAR", True, "model that decided"),
    "features": _Expected("TEXT", False, "JSON array or object"),
    "feature_names": _Expected("TEXT", True, "names of the array's values"),
    "executed": _Expected("BOOLEAN", True, "whether it was traded"),
    "execution_side": _Expected("VARCHAR", True, "side of the trade"),
    "entry_price": _Expected("FLOAT", True, "price at entry"),
    "entry_quantity": _Expected("FLOAT", True, "size of the trade"),
    "entry_time": _Expected("DATETIME", True, "time of entry"),
    "outcome_known": _Expected("BOOLEAN", True, "whether the outcome is known"),
    "exit_price": _Expected("FLOAT", True, "price at exit"),
    "exit_time": _Expected("DATETIME", True, "time of exit"),
    "realized_pnl": _Expected("FLOAT", True, "profit or loss"),
    "hold_duration_seconds": _Expected("INTEGER", True, "time between entry and exit"),
    "target_label": _Expected("FLOAT", True, "numeric label"),
    "target_class": _Expected("VARCHAR", True, "WIN, LOSS, NEUTRAL: the label"),
    "created_at": _Expected("DATETIME", True, "time when the row was written"),
    "updated_at": _Expected("DATETIME", True, "time when the outcome was added"),
}


def describe(survey: Survey, facts: FileFacts, progress: Progress) -> Source:
    """The training table of a database that has one. Raises sqlite3.Error or OSError."""
    assert survey.training is not None, "only a training database is described"
    return read(partial(_describe, survey.training, facts), survey.found.path, is_stopped=progress.is_stopped)


def _describe(training: TrainingTable, facts: FileFacts, connection: ReadOnlyConnection) -> Source:
    columns = _columns(connection)
    symbols = _counts(connection, "CAST(symbol AS TEXT)", most=_MAX_SHOWN)
    ((num_symbols,),) = connection.rows(f"SELECT count(DISTINCT symbol) FROM {TABLE}")  # noqa: S608 (constants)
    sample, note = _sample(connection, {column.name for column in columns if column.finding != "missing"})
    return Source(
        path=facts.path,
        size_bytes=facts.size_bytes,
        rows=training.rows,
        columns=columns,
        classes=_counts(connection, "coalesce(CAST(target_class AS TEXT), 'none (open)')"),
        symbols=symbols,
        first_at=training.first_at,
        last_at=training.last_at,
        num_symbols=num_symbols,
        features=_counts(connection, _FORM_OF_FEATURES),
        feature_names=_feature_names(connection, columns),
        sample=sample,
        sample_note=note,
    )


_FORM_OF_FEATURES = """
    CASE WHEN features IS NULL OR trim(features) = '' THEN 'missing'
         WHEN NOT json_valid(features) THEN 'not JSON'
         WHEN json_type(features) = 'array' THEN 'array of ' || json_array_length(features)
         WHEN json_type(features) = 'object' THEN 'object of ' || (SELECT count(*) FROM json_each(features))
         ELSE json_type(features) END"""


def _columns(connection: ReadOnlyConnection) -> tuple[Column, ...]:
    """The columns as they are, then those that are missing."""
    rows = connection.rows('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', TABLE)
    found = [
        _column(printable(name), printable(kind).upper(), is_nullable=not (notnull or pk))
        for name, kind, notnull, pk in rows
    ]
    present = {column.name.lower() for column in found}
    return (
        *found,
        *(
            Column(
                name=name,
                kind=expected.kind,
                is_nullable=expected.is_nullable,
                finding="missing",
                description=expected.description,
            )
            for name, expected in EXPECTED.items()
            if name not in present
        ),
    )


def _column(name: str, kind: str, *, is_nullable: bool) -> Column:
    expected = EXPECTED.get(name.lower())
    if expected is None:
        return Column(name=name, kind=kind, is_nullable=is_nullable, description="", finding="not expected, not read")
    differences = []
    if kind.partition("(")[0] != expected.kind:
        differences.append(f"expected {expected.kind}")
    if is_nullable and not expected.is_nullable:
        differences.append("expected NOT NULL")
    return Column(
        name=name, kind=kind, is_nullable=is_nullable, description=expected.description, finding=", ".join(differences)
    )


def _counts(connection: ReadOnlyConnection, expression: str, *, most: int = 20) -> dict[str, int]:
    statement = f"SELECT {expression}, count(*) FROM {TABLE} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?"  # noqa: S608
    return {printable(value)[:_MAX_CELL]: count for value, count in connection.rows(statement, most)}


def _feature_names(connection: ReadOnlyConnection, columns: tuple[Column, ...]) -> tuple[str, ...]:
    """The different contents of feature_names, most frequent first."""
    if not any(column.name == "feature_names" and column.finding != "missing" for column in columns):
        return ()
    return tuple(_counts(connection, "coalesce(CAST(feature_names AS TEXT), 'none')", most=5))


def _sample(connection: ReadOnlyConnection, present: set[str]) -> tuple[tuple[tuple[str, str], ...], str]:
    names = [name for name in _SAMPLE if name in present]
    columns = ", ".join(names)
    rows = connection.rows(
        f"SELECT {columns} FROM {TABLE} "  # noqa: S608 (constants)
        "WHERE target_class IN ('WIN', 'LOSS') ORDER BY id LIMIT 1",
    )
    if not rows:
        return (), ""
    values = dict(zip(names, rows[0], strict=True))
    note = ""
    pnl, label = values.get("realized_pnl"), values.get("target_class")
    if isinstance(pnl, float | int) and pnl and (pnl > 0) != (label == "WIN"):
        note = f"target_class {label} contradicts realized_pnl {pnl:.2f}"
    return tuple((name, _masked_cell(name, value)) for name, value in values.items()), note


def _masked_cell(name: str, value: object) -> str:
    if value is None:
        return "none"
    if name == "features":
        text = str(value).strip()
        form = {"[": "JSON array", "{": "JSON object"}.get(text[:1], "text")
        return f"[{form}, {len(text)} characters]"
    if name == "feature_names":
        return "(available)"
    return printable(value)[:_MAX_CELL]
