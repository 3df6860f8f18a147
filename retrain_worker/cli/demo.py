"""`demo`: one run on a simulated market, with a stand-in for the engine and an embedded Redis."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.demo.demo_host import Listener
    from retrain_worker.demo.market import Market
    from retrain_worker.report.result import EngineTraffic, RunResult

#: only a directory with this file is emptied
_MARK = ".retrain-worker-demo"
_EVENT_SECONDS = 20.0


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = verbs.add_parser("demo", help="one run on a simulated market")
    parser.add_argument(
        "--home",
        type=Path,
        default=Path("demo-home"),
        metavar="DIR",
        help="where everything is written (default ./demo-home; recreated each time)",
    )
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="seed of the market")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Market, incumbent, engine, one run, summary. The exit code of `once`."""
    from retrain_worker import settings
    from retrain_worker.adapters import journal
    from retrain_worker.cli.once import as_json, exit_code, run_with
    from retrain_worker.daemon.signals import Signals
    from retrain_worker.daemon.wiring import open_components
    from retrain_worker.demo import demo_host
    from retrain_worker.report.page import write_page
    from retrain_worker.report.result import as_object
    from retrain_worker.report.run_summary import summary

    signals, say = Signals(), _Progress()
    home = _fresh(arguments.home.expanduser().absolute())
    now = datetime.now(UTC)
    loaded = settings.load(os.environ, home=home, db=str(home / "quantum_trader.db"))
    journal.configure(level="ERROR", form=loaded.log_format)
    options.prepare_home(loaded)

    say("creating a market of 30 days, and an older one with another signal")
    today, old = demo_host.write_markets(home, seed=arguments.seed, now=now)
    say("training the incumbent on the older market and placing it in the engine's slot")
    demo_host.write_stale_incumbent(
        old, work_dir=home / "older_run", models_dir=loaded.engine_models_dir, env_file=loaded.engine_env_file
    )
    with ExitStack() as resources:
        components = resources.enter_context(open_components(loaded, report=lambda step: say(step.message)))
        say("starting the stand-in for the engine with it")
        engine = resources.enter_context(
            demo_host.engine(
                env_file=loaded.engine_env_file,
                redis_url=components.redis_url,
                database=today.path,
                log=home / "engine.jsonl",
            )
        )
        consumer = resources.enter_context(
            demo_host.consumer(redis_url=components.redis_url, log=home / "consumer.log")
        )
        result = run_with(components, is_stopped=lambda: signals.stopping)
        event = _event_of(engine, result)
        printed = consumer()
    result = replace(result, event=event, engine=_answers(engine), bayes_auc=_bayes_auc(today, result))
    if result.report is not None:
        write_page(result, result.report)
    if arguments.json:
        print(as_json(as_object(result)))
    else:
        print("\n" + summary(result, colour=sys.stdout.isatty()))
        print("\noutput of the consumer of docs/consumers.md:")
        print("\n".join(f"  {line}" for line in printed))
        print(f"\nall files are under {home}; another market: retrain-worker demo --seed {arguments.seed + 1}")
    return exit_code(result)


def _fresh(home: Path) -> Path:
    """An empty directory with the marker file; another directory that is not empty is refused."""
    if home.exists() and any(home.iterdir()):
        if not (home / _MARK).exists():
            raise UsageError(
                "is not empty and was not created by the demo", where=str(home), remedy="name another --home"
            )
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / _MARK).touch()
    return home


def _event_of(engine: Listener, result: RunResult) -> dict[str, object]:
    """The promotion as the stand-in's consumer received it; empty without one."""
    promoted = result.run.facts.promote
    line = engine.wait_for("event", seconds=_EVENT_SECONDS, event_id=promoted.event_id) if promoted else None
    if line is None:
        return {}
    payload = line["payload"]
    return {
        "type": line["event_type"],
        "id": line["event_id"],
        "old": payload["old_version"],
        "new": payload["new_version"],
        "auc": f"{payload['auc']:.3f}",
        "shadow_only": payload["shadow_only"],
    }


def _answers(engine: Listener) -> dict[str, EngineTraffic]:
    """Predictions of the stand-in by model version."""
    from retrain_worker.report.result import EngineTraffic

    last = engine.lines("stopped")
    return {version: EngineTraffic(**traffic) for version, traffic in last[-1]["answers"].items()} if last else {}


def _bayes_auc(market: Market, result: RunResult) -> float | None:
    """The Bayes-optimal AUC on the holdout, from the generator."""
    return market.bayes_auc(market.newest(result.candidate.n)) if result.candidate else None


class _Progress:
    """Prints each new message with the seconds since the start."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()

    def __call__(self, message: str) -> None:
        print(f"{time.monotonic() - self._started_at:5.1f} s  {message}", file=sys.stderr, flush=True)
