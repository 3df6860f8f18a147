"""Whether PatchTST can be trained on each kind of data that was found, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrain_worker.discovery.proof_pack import ProofPack, Role, Suitability

_MAX_NAMES = 3
#: dataset -> type, purpose, reason
_KINDS = {
    "ai_training_samples": (
        "feature vectors in time with WIN or LOSS",
        "training",
        "features, symbol, time and outcome of each decision: the content of the windows and the label",
    ),
    "backup databases": ("copy of the source", "restoring it", "training on the source and a copy counts rows twice"),
    "other rows databases": (
        "another ai_training_samples table",
        "unknown",
        "its rows are not the source's, and a run reads one database; DB_PATH selects it",
    ),
    "unrelated databases": (
        "SQLite database without training rows",
        "operation of the stack",
        "no feature vectors with an outcome",
    ),
    "candle files": (
        "CSV, prices by time",
        "market data, backtests",
        "prices without decisions: no outcome, and not the features that the engine passes to the model",
    ),
    "CSV tables": (
        "CSV",
        "exports",
        "a run reads ai_training_samples, where a row holds decision time, features and outcome together",
    ),
    "model files": (
        "weights of trained models",
        "serving",
        "the result of a training; reinforcement learning policies size trades",
    ),
    "observations": (
        "JSON lines: state, decision, reward",
        "feedback for reinforcement learning, signals",
        "states and decisions without the feature vector that the engine passes to PatchTST",
    ),
    "Redis": (
        "keys and streams of the running stack",
        "events between services",
        "current state and events; outcomes are written to the trading database",
    ),
    "services": (
        "programs of the stack (engine, CLM, RL ...)",
        "operation",
        "programs; a continuous learning service reads the same ai_training_samples",
    ),
}


def suitability(pack: ProofPack) -> tuple[Suitability, ...]:
    """One row for each kind of which something was found."""
    found = {name: list(paths) for name, paths in _paths(pack)}
    return tuple(
        Suitability(
            dataset=f"{name}: {_names(found[name])}",
            kind=kind,
            purpose=purpose,
            is_suitable=name == "ai_training_samples",
            why=why,
        )
        for name, (kind, purpose, why) in _KINDS.items()
        if found[name]
    )


def _paths(pack: ProofPack) -> Iterator[tuple[str, Iterator[str]]]:
    for role in (Role.SOURCE, Role.BACKUP, Role.OTHER_TRAINING, Role.UNRELATED):
        name = "ai_training_samples" if role is Role.SOURCE else f"{role.lower()} databases"
        yield name, (each.file.path for each in pack.databases if each.role is role)
    yield "candle files", (each.file.path for each in pack.csv_files if each.is_candles)
    yield "CSV tables", (each.file.path for each in pack.csv_files if not each.is_candles)
    yield "model files", (each.file.path for each in pack.models)
    yield "observations", (each.file.path for each in pack.observations)
    yield "Redis", (each.file.path for each in pack.redis_files)
    yield "services", (each.file.path for each in pack.units)


def _names(paths: Sequence[str]) -> str:
    names = ", ".join(dict.fromkeys(path.rsplit("/", 1)[-1] for path in paths[:_MAX_NAMES]))
    return f"{names} and {len(paths) - _MAX_NAMES} more" if len(paths) > _MAX_NAMES else names
