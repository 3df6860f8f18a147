"""A stand-in for the AI engine: predicts continuously, follows promotions, logs what it observes.

    python -m retrain_worker.demo.engine --env-file FILE --models-dir DIR --redis-url URL --db FILE --log FILE.jsonl

It starts with the model that PATCHTST_MODEL_PATH of the env file names, as the stack's engine does. The real one is
restarted by systemd when the trigger file is written; this one reloads without a restart. It ends on SIGTERM, or when
the process that started it has ended. Each line of the log is one JSON object with `at` and `kind`:

* `started`: it searches for its model. `swap`: the first prediction of a model (`old_version` is null for the first).
* `event`: an event of the bus, complete. `failure`: a failed prediction, once for each consecutive reason.
* `problem`: why the current model may not be the one in service (refused file, no Redis); null when it is over.
* `stopped`: the last line; answered, failed and slowest by model version, as in each `swap`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np
import redis
from numpy.typing import NDArray
from redis.exceptions import RedisError

from retrain_worker.demo.schema import TRAINING_SAMPLES
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.labels import action_of
from retrain_worker.errors import RetrainError
from retrain_worker.redis_client import add_entry, connect
from retrain_worker.serving.events import ModelEvents
from retrain_worker.serving.follower import ModelFollower
from retrain_worker.serving.model_watch import Served
from retrain_worker.serving.slot_entry import SlotEntries, default_directories

CONSUMER = "demo-engine"
_PAUSE_SECONDS = 0.15
#: length of the stream of intents
_LONGEST = 10_000


@dataclass(kw_only=True)
class Answers:
    """Statistics of one model version."""

    answered: int = 0
    failed: int = 0
    slowest_seconds: float = 0.0


@dataclass(kw_only=True)
class EngineLog:
    """The log file. Two threads write lines."""

    file: TextIO
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Write one line and flush it."""
        line = msgspec.json.encode({"at": datetime.now(UTC).isoformat(), "kind": kind, **facts}).decode()
        with self._lock:
            self.file.write(line + "\n")
            self.file.flush()


class Engine:
    """Predicts the newest window of every symbol of `database` with the current model."""

    def __init__(self, follower: ModelFollower, database: Path, log: EngineLog, intents: Intents | None = None) -> None:
        self._intents = intents
        self.answers: dict[str, Answers] = {}
        self._follower = follower
        self._database = database
        self._log = log
        self._version: str | None = None
        self._failure = ""
        self._problem: str | None = None

    def answer(self) -> None:
        """One round: read, predict, count. Never raises for faults of model, database or bus."""
        self._note_problem(self._follower.problem)
        served = self._follower.served
        if served is None:
            return
        counts = self.answers.setdefault(served.version, Answers())
        started = time.perf_counter()
        try:
            symbols, windows = _symbols_and_windows(self._database, served.bundle.contract)
            probabilities = _finite(served.bundle.probabilities(windows))
        except (RetrainError, sqlite3.Error, ValueError, KeyError) as error:
            counts.failed += 1
            self._note_failure(served, f"{type(error).__name__}: {error}")
            return
        counts.answered += len(probabilities)
        counts.slowest_seconds = max(counts.slowest_seconds, time.perf_counter() - started)
        self._failure = ""
        if self._intents is not None:
            self._intents.publish(served, dict(zip(symbols, probabilities.tolist(), strict=True)))
        if served.version != self._version:
            self._note_swap(served, probabilities)

    def tally(self) -> dict[str, Any]:
        """Answered, failed and slowest by model version, as plain values."""
        return {version: asdict(counts) for version, counts in self.answers.items()}

    def _note_swap(self, served: Served, probabilities: NDArray[np.float64]) -> None:
        self._log.write(
            "swap",
            {
                "old_version": self._version,
                "version": served.version,
                "model_path": str(served.model_path),
                "sha256": served.sha256,
                "event_id": served.named.event_id,
                "canary_max_error": served.canary_max_error,
                "first_answers": [round(float(p), 4) for p in probabilities],
                "answers": self.tally(),
            },
        )
        self._version = served.version

    def _note_failure(self, served: Served, reason: str) -> None:
        if reason != self._failure:
            self._failure = reason
            self._log.write("failure", {"version": served.version, "reason": reason})

    def _note_problem(self, problem: str | None) -> None:
        if problem != self._problem:
            self._problem = problem
            self._log.write("problem", {"problem": problem})


class Intents:
    """The engine's entries on quantum:stream:trade.intent: one for each row and model."""

    def __init__(self, client: redis.Redis, database: Path) -> None:
        self._client = client
        self._database = database
        self._published: set[tuple[str, str, str]] = set()

    def publish(self, served: Served, answers: Mapping[str, float]) -> None:
        """Publish new entries. An unreachable bus or a busy table is ignored."""
        with suppress(RedisError, sqlite3.Error):
            for symbol, timestamp, side in _newest_decisions(self._database):
                if symbol not in answers or (symbol, timestamp, served.version) in self._published:
                    continue
                action = action_of(answers[symbol], served.bundle.manifest.thresholds)
                ours = {
                    "action": action,
                    "confidence": round(answers[symbol], 4),
                    "shadow": True,
                    "version": served.version,
                }
                payload = {
                    "symbol": symbol,
                    "side": side,
                    "timestamp": timestamp,
                    "model_breakdown": {"patchtst": ours},
                }
                add_entry(
                    self._client,
                    INTENT_STREAM,
                    {"event_type": "trade.intent", "source": CONSUMER, "payload": json.dumps(payload)},
                    longest=_LONGEST,
                )
                self._published.add((symbol, timestamp, served.version))


def _newest_decisions(database: Path) -> list[tuple[str, str, str]]:
    """(symbol, timestamp, predicted action) of the newest row of each symbol. Raises sqlite3.Error."""
    uri = f"{database.absolute().as_uri()}?mode=ro"
    query = f"SELECT symbol, max(timestamp), upper(predicted_action) FROM {TRAINING_SAMPLES} GROUP BY symbol"  # noqa: S608
    with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
        return [(str(symbol), str(timestamp), str(side)) for symbol, timestamp, side in connection.execute(query)]


def _finite(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not finite")
    return probabilities


def newest_windows(database: Path, contract: ModelContract) -> NDArray[np.float32]:
    """The newest window (S, T, F) of each symbol that has one, in the contract's order of features.

    Raises ValueError when no symbol has a full window, KeyError when a row lacks a feature, sqlite3.Error.
    """
    return _symbols_and_windows(database, contract)[1]


def _symbols_and_windows(database: Path, contract: ModelContract) -> tuple[list[str], NDArray[np.float32]]:
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
        symbols = [symbol for (symbol,) in connection.execute(f"SELECT DISTINCT symbol FROM {TRAINING_SAMPLES}")]  # noqa: S608
        windows = {symbol: list(_newest_rows(connection, symbol, contract)) for symbol in sorted(symbols)}
    full = {symbol: window[::-1] for symbol, window in windows.items() if len(window) == contract.context_length}
    if not full:
        raise ValueError(f"no symbol has {contract.context_length} rows yet")
    return list(full), np.array(list(full.values()), dtype=np.float32)


def _newest_rows(connection: sqlite3.Connection, symbol: str, contract: ModelContract) -> Iterator[list[float]]:
    query = (
        f"SELECT features, feature_names FROM {TRAINING_SAMPLES} WHERE symbol = ? "  # noqa: S608 (our own name)
        "ORDER BY timestamp DESC, id DESC LIMIT ?"
    )
    for features, names in connection.execute(query, (symbol, contract.context_length)):
        found = json.loads(features)
        values = found if isinstance(found, dict) else dict(zip(json.loads(names), found, strict=True))
        yield [float(values[name]) for name in contract.feature_names]


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="retrain_worker.demo.engine", description=__doc__.splitlines()[0])
    for name in ("--env-file", "--db", "--log"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--models-dir", type=Path, default=default_directories()[0])
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.set())
    _use_one_thread()
    with options.log.open("a", encoding="utf-8") as file:
        _run(options, EngineLog(file=file), stopping)
    return 0


def _run(options: argparse.Namespace, log: EngineLog, stopping: threading.Event) -> None:
    parent = os.getppid()
    named = SlotEntries([options.models_dir]).from_env_file(options.env_file)
    log.write(
        "started",
        {"pid": os.getpid(), "env_file": str(options.env_file), "model_path": named.model_path if named else None},
    )
    events = ModelEvents(options.redis_url, group="demo_engine", consumer=CONSUMER)
    client = connect(options.redis_url)
    follower = ModelFollower(
        options.redis_url, consumer=CONSUMER, env_file=options.env_file, allowed_directories=[options.models_dir]
    )
    with closing(client), events, follower:
        reader = threading.Thread(target=_log_events, args=(events, log), name="events")
        reader.start()
        engine = Engine(follower, options.db, log, Intents(client, options.db))
        while not stopping.wait(_PAUSE_SECONDS) and os.getppid() == parent:
            engine.answer()
        events.stop()
        reader.join()
        log.write("stopped", {"answers": engine.tally(), "problem": follower.problem})


def _log_events(events: ModelEvents, log: EngineLog) -> None:
    for event in events:
        log.write("event", asdict(event))
        events.acknowledge(event)


def _use_one_thread() -> None:
    """Use one thread: sufficient for a few windows, and a training may run at the same time."""
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
