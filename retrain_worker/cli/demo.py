"""`demo`: one run on a simulated market, with a stand-in for the engine and an embedded Redis."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.progress import RunActivity
from retrain_worker.cli.screen import console
from retrain_worker.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from retrain_worker.demo.demo_host import Listener
    from retrain_worker.demo.market import Market
    from retrain_worker.domain.report_request import EngineTraffic
    from retrain_worker.report.result import RunResult
    from retrain_worker.stages.step import Step

#: only a directory with this file is emptied
_MARK = ".retrain-worker-demo"
_EVENT_SECONDS = 20.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--home",
        type=Path,
        default=Path("demo-home"),
        metavar="DIR",
        help="where everything is written (default ./demo-home; recreated each time)",
    )
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="seed of the market")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Market, incumbent, engine, one run, summary. The exit code of `once`."""
    from retrain_worker import settings
    from retrain_worker.adapters.embedded_redis import find_server, version_of
    from retrain_worker.cli.once import exit_code, run_with
    from retrain_worker.cli.screen import show
    from retrain_worker.daemon.one_off_task import write_pages
    from retrain_worker.daemon.run_report import run_page
    from retrain_worker.daemon.signals import Signals
    from retrain_worker.daemon.wiring import open_components
    from retrain_worker.demo import demo_host
    from retrain_worker.domain.report_request import ReportRequest
    from retrain_worker.report.result import as_object

    signals = Signals()
    home = _fresh(arguments.home.expanduser().absolute())
    now = datetime.now(UTC)
    loaded = settings.load({**os.environ, "STATE_URL": ""}, home=home, db=str(home / "quantum_trader.db"))
    options.configure_log(loaded, level="ERROR")
    options.prepare_home(loaded)

    with _Progress() as progress:
        if not loaded.redis_url:
            server = find_server()
            progress(f"Redis: {version_of(server)} ({server})")
        progress("creating a market of 30 days, and an older one with another signal")
        today, old = demo_host.write_markets(home, seed=arguments.seed, now=now)
        progress("training the incumbent on the older market and placing it in the engine's slot")
        demo_host.write_stale_incumbent(
            old, work_dir=home / "older_run", models_dir=loaded.engine_models_dir, env_file=loaded.engine_env_file
        )
        with ExitStack() as resources:
            components = resources.enter_context(open_components(loaded, report=progress.step))
            progress("starting the stand-in for the engine with it")
            engine = resources.enter_context(
                demo_host.engine(
                    env_file=loaded.engine_env_file,
                    models_dir=loaded.engine_models_dir,
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
        write_pages(ReportRequest(runs=(run_page(result, result.report.parent, is_in_site=True),)))
    show(arguments, as_object(result), lambda: _as_text(result, printed, home=home, seed=arguments.seed))
    return exit_code(result)


def _as_text(result: RunResult, printed: Sequence[str], *, home: Path, seed: int) -> RenderableType:
    from rich.console import Group

    from retrain_worker.cli.screen import pairs
    from retrain_worker.report.run_summary import summary

    lines = [
        ("", "", ""),
        ("", "output of the consumer of docs/how-to/consume-events.md:", "bold"),
        *(("", f"  {line}", "") for line in printed),
        ("", "", ""),
        ("", f"all files are under {home}; another market: retrain-worker demo --seed {seed + 1}", ""),
    ]
    return Group(summary(result), pairs(lines))


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
    from retrain_worker.domain.report_request import EngineTraffic

    last = engine.lines("stopped")
    return {version: EngineTraffic(**traffic) for version, traffic in last[-1]["answers"].items()} if last else {}


def _bayes_auc(market: Market, result: RunResult) -> float | None:
    """The Bayes-optimal AUC on the holdout, from the generator."""
    return market.bayes_auc(market.newest(result.candidate.n)) if result.candidate else None


class _Progress(RunActivity):
    """Also prints each phase, and each move of the run, with the seconds since the start."""

    def __init__(self) -> None:
        super().__init__({})
        self._lines = console(stderr=True)

    def __call__(self, text: str) -> None:
        """Begin a phase."""
        self._lines.print(f"{time.monotonic() - self._began_at:5.1f} s  {text}", soft_wrap=True)
        self.message(text)

    def step(self, step: Step) -> None:
        """Show a step of the run."""
        if step.is_move:
            self(step.message)
        if self.is_shown:
            super().step(step)
