"""Whether PatchTST can be trained on each kind of data that was found, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrain_worker.discovery.proof_pack import BinaryFile, Database, Observations, Role, Suitability, TextTable, Unit

_MAX_NAMES = 3
_OF_DATABASES = {
    Role.SOURCE: (
        "feature vectors in time with WIN or LOSS",
        "training",
        True,
        "features, symbol, time and outcome of each decision: what the windows and the label are made of",
    ),
    Role.BACKUP: (
        "copy of the source",
        "restoring it",
        False,
        "its rows are those of the source: training on both counts them twice",
    ),
    Role.OTHER_TRAINING: (
        "another ai_training_samples table",
        "unknown",
        False,
        "its rows are not the source's, and a run reads one database; DB_PATH decides which",
    ),
    Role.UNRELATED: (
        "SQLite database without training rows",
        "operation of the stack",
        False,
        "no feature vector with an outcome stands in it",
    ),
}


def suitability(
    *,
    databases: Sequence[Database],
    csv_files: Sequence[TextTable],
    models: Sequence[BinaryFile],
    observations: Sequence[Observations],
    redis_files: Sequence[BinaryFile],
    units: Sequence[Unit],
) -> tuple[Suitability, ...]:
    """One row for each kind of which something was found."""
    candles = [each.file.path for each in csv_files if each.is_candles]
    tables = [each.file.path for each in csv_files if not each.is_candles]
    rows = [
        *_of_databases(databases),
        _row(
            "candle files",
            candles,
            "CSV, prices by time",
            "market data, backtests",
            "prices without decisions: no outcome to learn, and not the features that the engine is asked with",
        ),
        _row(
            "CSV tables",
            tables,
            "CSV",
            "exports",
            "a run reads ai_training_samples, where each row has its decision time, features and outcome together",
        ),
        _row(
            "model files",
            [each.file.path for each in models],
            "weights of trained models",
            "what models became",
            "the result of a training, not data for one; reinforcement learning policies size positions",
        ),
        _row(
            "observations",
            [each.file.path for each in observations],
            "JSON lines: state, decision, reward",
            "feedback for reinforcement learning, signals",
            "states and decisions without the feature vector that the engine feeds PatchTST",
        ),
        _row(
            "Redis",
            [each.file.path for each in redis_files],
            "keys and streams of the running stack",
            "events between services",
            "state of the moment and events; outcomes are written to the trading database",
        ),
        _row(
            "services",
            [each.file.path for each in units],
            "programs of the stack (engine, CLM, RL ...)",
            "operation",
            "programs, not data: a continuous learning service reads the same ai_training_samples",
        ),
    ]
    return tuple(row for row in rows if row is not None)


def _of_databases(databases: Sequence[Database]) -> Iterator[Suitability | None]:
    for role, (kind, purpose, is_suitable, why) in _OF_DATABASES.items():
        paths = [each.file.path for each in databases if each.role is role]
        yield _row(
            "ai_training_samples" if role is Role.SOURCE else f"{role.lower()} databases",
            paths,
            kind,
            purpose,
            why,
            is_suitable=is_suitable,
        )


def _row(
    dataset: str, paths: Sequence[str], kind: str, purpose: str, why: str, *, is_suitable: bool = False
) -> Suitability | None:
    if not paths:
        return None
    names = ", ".join(dict.fromkeys(path.rsplit("/", 1)[-1] for path in paths[:_MAX_NAMES]))
    more = f" and {len(paths) - _MAX_NAMES} more" if len(paths) > _MAX_NAMES else ""
    return Suitability(
        dataset=f"{dataset}: {names}{more}", kind=kind, purpose=purpose, is_suitable=is_suitable, why=why
    )
