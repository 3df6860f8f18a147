"""Duration of a swap, and time from the verdict to the follower's first prediction: `benchmarks/swap.py`.

200 promotions of full-size models (engine preset, 2.4 MB) by the daemon's passes in a separate home, with a real Redis
and a ModelFollower that predicts continuously in two threads. The verdict is the start of the pass in which GATE has
ended. About two minutes on a quiet machine.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrain_worker import durable_file, settings
from retrain_worker.adapters import journal
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.cli.options import prepare_home
from retrain_worker.daemon.jobs import retention
from retrain_worker.daemon.wiring import Components, open_components
from retrain_worker.domain.artifact import ModelContract, model_file, version_of
from retrain_worker.domain.facts import TrainFacts
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.recipe import InputTransform, Preset
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.serving.follower import ModelFollower

CONTRACT = ModelContract(
    preset=Preset.ENGINE,
    context_length=128,
    input_transform=InputTransform.MINMAX,
    feature_names=("rsi", "ma_cross", "volatility", "returns_1h", "volume", "spread", "trend", "atr"),
)
WINDOWS = np.random.default_rng(1).normal(size=(4, 128, 8)).astype(np.float32)
THREADS = 2
PATIENCE_SECONDS = 60.0


@dataclass
class Answers:
    """Predictions of the follower."""

    answered: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def ask(self, follower: ModelFollower, stopped: threading.Event) -> None:
        """Predict continuously until `stop`."""
        while not stopped.is_set():
            began = time.perf_counter()
            try:
                follower.predict(WINDOWS)
            except Exception as error:
                self.refused.append(repr(error))
            else:
                self.answered += 1
            self.seconds.append(time.perf_counter() - began)


class TimedSlot(ModelSlot):
    """The slot, with timing."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.seconds: dict[str, list[float]] = {"publish": [], "point_to": []}

    def publish(self, *arguments: Any, **named: Any) -> Path:
        """Timed."""
        began = time.perf_counter()
        try:
            return super().publish(*arguments, **named)
        finally:
            self.seconds["publish"].append(time.perf_counter() - began)

    def point_to(self, *arguments: Any, **named: Any) -> None:
        """Timed."""
        began = time.perf_counter()
        super().point_to(*arguments, **named)
        self.seconds["point_to"].append(time.perf_counter() - began)


def write_candidate(folder: Path, number: int) -> tuple[Path, str, Run]:
    """A new model of the engine's size, and its run."""
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    run_id = f"{at:%Y%m%d_%H%M%S}"
    torch.manual_seed(number)
    path = model_file(folder, version_of(run_id))
    manifest = bundle.write(
        path,
        model=PatchTST(presets.config_for(CONTRACT, dropout=0.0)),
        contract=CONTRACT,
        canary_windows=WINDOWS,
        origin=bundle.Origin(),
    )
    run = Run(run_id=run_id, requested_by="benchmark", request_reason="benchmark", created_at=at, updated_at=at)
    return path, manifest.sha256, run


def due(components: Components, path: Path, sha256: str, run: Run) -> Run:
    """The run at the promotion of its candidate, stored."""
    current = components.configuration.context.slot.current_path()
    for stage in (Stage.AUDIT, Stage.TRAIN, Stage.GATE, Stage.PROMOTE):
        run = run.moved_to(stage, at=run.created_at)
    run = run.with_fact(
        TrainFacts(
            candidate_path=str(path),
            version=path.stem,
            sha256=sha256,
            contract=CONTRACT,
            final_loss=0.5,
            incumbent_path=str(current) if current else None,
        )
    )
    components.store.record(run)
    return run


def promote(components: Components, follower: ModelFollower, path: Path, sha256: str, run: Run) -> tuple[float, float]:
    """Seconds from the verdict until the env line names it, and until the follower predicts with it."""
    due(components, path, sha256, run)
    answered_at: list[float] = []

    def watch() -> None:
        until = time.perf_counter() + PATIENCE_SECONDS
        while time.perf_counter() < until:
            served = follower.served
            if served is not None and served.version == path.stem:
                follower.predict(WINDOWS)
                answered_at.append(time.perf_counter())
                return
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    components.driver.run_pass()
    swapped = time.perf_counter()
    while not (components.store.run(run.run_id) or run).is_finished:
        components.driver.run_pass()
        time.sleep(0.01)
    watcher.join()
    ended = components.store.run(run.run_id)
    assert ended is not None
    assert ended.outcome is Outcome.PROMOTED, ended.reasons
    assert answered_at, f"the follower never predicted with {path.stem}"
    return swapped - began, answered_at[0] - began


def line(name: str, seconds: list[float]) -> str:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return f"| {name} | {len(seconds)} | {p50:.1f} | {p99:.1f} | {max(seconds) * 1e3:.1f} |"


def naive_swap(folder: Path, model: Path) -> float:
    """A script without crash safety: copy the model, rewrite the line."""
    env = folder / "naive.env"
    env.write_text("A=1\nPATCHTST_MODEL_PATH=/old.pth\n")
    began = time.perf_counter()
    shutil.copyfile(model, folder / "naive.pth")
    env.write_text(env.read_text().replace("/old.pth", str(folder / "naive.pth")))
    return time.perf_counter() - began


def synced_copy(folder: Path, model: Path) -> float:
    """The lower limit: the same bytes written durably once."""
    began = time.perf_counter()
    durable_file.replace_file(folder / "floor.pth", model.read_bytes())
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    journal.configure(level="ERROR", form="text")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="retrain-swap-") as name:
        folder = Path(name)
        loaded = settings.load(
            {"ENGINE_CONFIRM_TIMEOUT_S": "60", "KEEP_MODELS": "2", "PROBATION_HOURS": "0"},
            home=folder / "home",
            db=str(folder / "none.db"),
        )
        prepare_home(loaded)
        candidates = folder / "candidates"
        candidates.mkdir()
        naive, floor, to_line, to_answer = [], [], [], []
        with open_components(loaded) as components:
            slot = TimedSlot(
                engine_models_dir=loaded.engine_models_dir,
                engine_env_file=loaded.engine_env_file,
                trigger_file=loaded.engine_trigger_file,
            )
            object.__setattr__(components.configuration.context, "slot", slot)
            follower = ModelFollower(
                components.redis_url, consumer="benchmark", allowed_directories=[loaded.engine_models_dir]
            )
            answers, stopped = [Answers() for _ in range(THREADS)], threading.Event()
            with follower:
                promote(components, follower, *write_candidate(candidates, 0))  # the first has no predecessor
                users = [threading.Thread(target=one.ask, args=(follower, stopped)) for one in answers]
                for user in users:
                    user.start()
                for timings in slot.seconds.values():
                    timings.clear()
                for number in range(1, arguments.swaps + 1):
                    path, sha256, run = write_candidate(candidates, number)
                    until_line, until_answer = promote(components, follower, path, sha256, run)
                    to_line.append(until_line)
                    to_answer.append(until_answer)
                    naive.append(naive_swap(folder, path))
                    floor.append(synced_copy(folder, path))
                    retention.remove_models(components.store, components.configuration.slot, keep=loaded.keep_models)
                    for left in candidates.iterdir():
                        left.unlink()
                stopped.set()
                for user in users:
                    user.join()
    refused = [one for each in answers for one in each.refused]
    print("| | times | p50 ms | p99 ms | slowest ms |\n|---|---:|---:|---:|---:|")
    print(line("the env line alone, with its backup (`point_to`)", slot.seconds["point_to"]))
    print(line("model and sidecars into the engine's directory (`publish`)", slot.seconds["publish"]))
    print(line("the whole swap: verdict → files, intent, line, event, trigger, all stored, event sent", to_line))
    print(line("verdict → the follower predicts with the new model", to_answer))
    print(line("for comparison: a script's copy and rewrite, nothing durable", naive))
    print(line("for comparison: one durable copy of the model (floor)", floor))
    print(line("one prediction during the swaps (4 windows)", [second for each in answers for second in each.seconds]))
    print(
        f"\npredictions during the swaps: {sum(each.answered for each in answers)} answered, {len(refused)} refused; "
        f"the whole swap takes {np.median(to_line) / np.median(floor):.1f} times the floor"
    )
    print("\n".join(refused[:5]), f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
