"""The environment of the demo: market, stale incumbent, and the stand-in for the engine as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from retrain_worker.demo.incumbent import write_incumbent
from retrain_worker.demo.market import Market, write_market
from retrain_worker.demo.regime import Regime
from retrain_worker.errors import WorkerFailedError

#: rotation of the market's signal since the incumbent was trained
_TURN_DEGREES = 70.0
_OLD_ROWS = 2_500
_POLL_SECONDS = 0.05
_CONSUMER_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Listener:
    """The stand-in for the engine, observed through its log."""

    log: Path
    process: subprocess.Popen[bytes]

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The lines of this kind so far."""
        with suppress(OSError):
            found = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
            return [line for line in found if line["kind"] == kind]
        return []

    def wait_for(self, kind: str, *, seconds: float, **wanted: Any) -> dict[str, Any] | None:
        """The first line of `kind` with these values; None when it is not written in time or the engine has ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in self.lines(kind):
                if all(line.get(name) == value for name, value in wanted.items()):
                    return line
            if self.process.poll() is not None:
                return None
            time.sleep(_POLL_SECONDS)
        return None


def write_markets(folder: Path, *, seed: int, now: datetime) -> tuple[Market, Market]:
    """The market of the last 30 days, and an older one with another signal, as databases in `folder`."""
    today = write_market(folder / "quantum_trader.db", seed=seed, end=now)
    old = write_market(
        folder / "older_market.db",
        seed=seed + 1,
        end=now - timedelta(days=30),
        rows=_OLD_ROWS,
        days=12.0,
        regime=Regime(turn_degrees=_TURN_DEGREES),
    )
    return today, old


def write_stale_incumbent(old: Market, *, work_dir: Path, models_dir: Path, env_file: Path) -> Path:
    """A model of the older market in the engine's slot."""
    return write_incumbent(
        old.path, work_dir=work_dir, engine_models_dir=models_dir, engine_env_file=env_file, trained_at=old.end
    )


@contextmanager
def engine(*, env_file: Path, models_dir: Path, redis_url: str, database: Path, log: Path) -> Iterator[Listener]:
    """The running stand-in; stopped with SIGTERM at the end. Raises WorkerFailedError when it does not answer."""
    command = [
        sys.executable,
        "-m",
        "retrain_worker.demo.engine",
        "--env-file",
        str(env_file),
        "--models-dir",
        str(models_dir),
        "--redis-url",
        redis_url,
        "--db",
        str(database),
        "--log",
        str(log),
    ]
    with (log.with_suffix(".stderr")).open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors)
    listener = Listener(log=log, process=process)
    try:
        if listener.wait_for("swap", seconds=60.0) is None:
            raise WorkerFailedError("the stand-in for the engine does not answer", where=str(log))
        yield listener
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def consumer(*, redis_url: str, log: Path) -> Iterator[Callable[[], list[str]]]:
    """Run the consumer of docs/how-to/consume-events.md; yields the list of its output, up to the end of the run."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "retrain_worker.demo.consumer"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "REDIS_URL": redis_url},
        )

    def printed() -> list[str]:
        until = time.monotonic() + _CONSUMER_SECONDS
        while not (lines := log.read_text().splitlines()) or lines[-1].startswith("learning.retraining.started"):
            if time.monotonic() > until or process.poll() is not None:
                break
            time.sleep(_POLL_SECONDS)
        return lines

    try:
        yield printed
    finally:
        process.terminate()
        process.wait()
