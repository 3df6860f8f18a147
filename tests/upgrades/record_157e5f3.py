"""Records what commit 157e5f3 stores, for tests that open it with a later version. Writes tests/upgrades/v157e5f3.

It needs the code of that commit, unchanged:

    git worktree add /tmp/at_157e5f3 157e5f3
    cp -r tests/upgrades /tmp/at_157e5f3/tests/
    cd /tmp/at_157e5f3 && python -m tests.upgrades.record_157e5f3

One home covers fifteen days of a simulated market. The real `App` runs on it, with real worker processes, an embedded
Redis, and the demo's engine as follower. The home is kept four times: `train`, `shadow`, `probation`, `history`. Three
things differ from a daemon in production: `App` reads a clock that the script sets, the jobs of the schedule are called
one by one, and bookkeeping is on although the settings name a home. README.md in v157e5f3 says what each file is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from retrain_worker.adapters.run_requests import trigger
from retrain_worker.daemon.app import App
from retrain_worker.domain.orders import Order, OrderKind

from retrain_worker import settings
from retrain_worker.adapters import journal
from retrain_worker.adapters.state_schema import MIGRATIONS
from retrain_worker.cli.options import prepare_home
from retrain_worker.daemon import app as app_module
from retrain_worker.demo.engine import Diary, Engine, Intents
from retrain_worker.demo.market import Market, continue_market, write_market
from retrain_worker.demo.regime import Regime
from retrain_worker.domain.artifact import checksum_file, manifest_file, model_file, version_of
from retrain_worker.domain.events import CURRENT_MODEL_KEY, STREAM_PREFIX, EventType, stream_of
from retrain_worker.domain.lifecycle import DeploymentState, Outcome, Run, Stage
from retrain_worker.redis_client import connect, entries_in, text_of
from retrain_worker.serving.events import ModelEvents
from retrain_worker.serving.follower import ModelFollower
from retrain_worker.settings import Settings
from retrain_worker.stages import orders
from retrain_worker.stages.advance import advance
from tests.upgrades import stored_home

ROOT = Path(__file__).parents[2]
#: the market ends here when the program starts for the first time
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
#: learnable from few rows; a window of 16 rows shows all of it
REGIME = Regime(turns_good=0.1, turns_bad=0.08, win_good=0.92, win_bad=0.1, lag=3, strength=0.9)
#: a few hundred rows are enough, and two input transforms are tried
SETTINGS = {
    "RETRAIN_INTERVAL_H": "8760",
    "ENGINE_CONFIRM_TIMEOUT_S": "600",
    "CHILD_NICE": "0",
    "MAX_RETRIES": "0",
    "MIN_SAMPLES": "300",
    "MIN_CLASS_SAMPLES": "50",
    "MIN_NEW_SAMPLES": "50",
    "HOLDOUT_SHARE": "0.2",
    "VALIDATION_SHARE": "0.25",
    "GATE_PAST_FOLDS": "1",
    "PRESET": "paper",
    "SEQ_LEN": "16",
    "INPUT_TRANSFORM": "auto",
    "MAX_EPOCHS": "12",
    "PATIENCE": "12",
    "BATCH_SIZE": "32",
    "LEARNING_RATE": "0.003",
    "DROPOUT": "0.1",
    "TRAIN_THREADS": "1",
    "PRECISION": "fp32",
    "DEVICE": "cpu",
    "GATE_MIN_ROWS": "60",
    "GATE_SKILL_ALPHA": "0.1",
    "GATE_NEWEST_ALPHA": "0.1",
    "GATE_INCUMBENT_MARGIN": "1",
    "GATE_ECE_TOLERANCE": "0.3",
    "GATE_MIN_CONFIDENCE_SLOPE": "0",
    "GATE_MAX_ACTION_SHARE": "0.95",
    "PROBATION_HOURS": "48",
    "PROBATION_MIN_OUTCOMES": "30",
    "PROBATION_MIN_ROWS": "20",
    "PROBATION_MIN_STD": "0.15",
}
#: real seconds that one step may take
PATIENCE_SECONDS = 900.0
_EVALUATION_MINUTES = 11.0


class Clock:
    """The time of the simulated market; it goes on as real time does."""

    def __init__(self, at: datetime) -> None:
        self._ahead = at - datetime.now(UTC)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def set(self, at: datetime) -> None:
        self._ahead = at - datetime.now(UTC)


class Stack:
    """The home, the market, and the program and the engine that run on them."""

    app: App
    engine: Engine

    def __init__(self, folder: Path, *, rows: int, **changes: str) -> None:
        self.home, self.clock = folder / "home", Clock(START)
        self.values = {**SETTINGS, **changes}
        self.home.mkdir(parents=True)
        self.market: Market = write_market(
            self.home / "trader.db", seed=11, end=START, rows=rows, open_rows=10, days=14.0, regime=REGIME
        )
        prepare_home(self.settings())

    def settings(self) -> Settings:
        loaded = settings.load(self.values, home=self.home, db=str(self.market.path))
        return replace(loaded, bookkeeping=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The program from its start to its stop, and an engine that follows it."""
        with (
            mock.patch.object(app_module, "now", self.clock),
            App(self.settings()) as self.app,
            closing(connect(self.app.redis_url)) as client,
            (self.home.parent / "engine.jsonl").open("a") as file,
            ModelFollower(self.app.redis_url, consumer="engine-1") as follower,
        ):
            self.engine = Engine(follower, self.market.path, Diary(file=file), Intents(client, self.market.path))
            self.app.recover()
            yield

    def reload(self, **changes: str) -> None:
        """New settings, as after SIGHUP."""
        self.values |= changes
        self.app.apply(self.settings())

    def tick_until(self, condition: Callable[[], object], what: str) -> None:
        """The jobs of the daemon in turn, until `condition` holds."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"{what}: {self.app.status_line()}")
            for job in (self.app.tick, self.app.relay, self.app.take_requests):
                job()
            time.sleep(0.02)
        self.app.listen()
        self.app.keep_books()
        print(f"{self.clock():%Y-%m-%d %H:%M}  {what}: {self.app.status_line()}", flush=True)

    def days_pass(self, days: float, *, rows: int) -> None:
        """Rows arrive in groups of ten; the engine answers for the newest row of each symbol."""
        for _ in range(rows // 10):
            self.market = continue_market(self.market, rows=10, days=days / (rows // 10))
            self.clock.set(self.market.end)
            self.engine.answer()

    def newest_run(self) -> Run:
        return self.app.store.history(1)[0]

    def run_of(self, run_id: str) -> Run:
        found = self.app.store.run(run_id)
        assert found is not None, run_id
        return found

    def request_run(self, reason: str) -> Run:
        """A request on the stream; the run that it begins."""
        before = self.newest_run().run_id
        trigger(self.app._client, reason=reason, requested_by="ada")
        self.tick_until(lambda: self.newest_run().run_id != before, f"requested: {reason}")
        return self.newest_run()

    def finish(self, run: Run, outcome: Outcome) -> Run:
        self.tick_until(lambda: self.run_of(run.run_id).is_finished, f"end of {run.run_id}")
        ended = self.run_of(run.run_id)
        assert ended.outcome is outcome, ended
        return ended

    def evaluate(self, run: Run, *, days: float, rows: int) -> None:
        """Time passes; the run that waits is evaluated once more."""
        number = self.run_of(run.run_id).fact(run.stage)["look"]
        self.days_pass(days, rows=rows)
        self.clock.set(self.clock() + timedelta(minutes=_EVALUATION_MINUTES))
        self.tick_until(lambda: self.run_of(run.run_id).fact(run.stage)["look"] > number, f"evaluation {number}")

    def reach(self, run: Run, stage: Stage) -> Run:
        def is_there() -> bool:
            found = self.run_of(run.run_id)
            assert not found.is_finished, found.reasons
            return bool(found.fact(stage).get("look", 0) > 1)

        self.tick_until(is_there, f"{run.run_id} at {stage}")
        return self.run_of(run.run_id)

    def order(self, kind: OrderKind, reason: str, **arguments: str) -> Order:
        return self.app.store.open_order(kind, arguments=arguments, requested_by="ada", reason=reason, at=self.clock())

    def carry_out(self, order: Order) -> Order:
        def answered() -> Order | None:
            found = self.app.store.order(order.order_id)
            return found if found is not None and found.is_answered else None

        self.tick_until(answered, order.order_id)
        found = answered()
        assert found is not None
        return found

    def edit_env_file(self, model: Path) -> None:
        """A person changes the env line; the program records that."""
        env_file = self.home / "engine/ai-engine.env"
        lines = [line for line in env_file.read_text().splitlines() if not line.startswith("PATCHTST_MODEL_PATH=")]
        env_file.write_text("\n".join([*lines, f"PATCHTST_MODEL_PATH={model}", ""]))
        self.tick_until(lambda: self.app.store.deployments(1)[0].model_path == str(model), f"edited to {model.name}")

    def keep(self, name: str) -> Path:
        """Keep the home as it is now, while the program does not run."""
        folder = stored_home.keep(self.home, name)
        lines = [f"{key}={value}" for key, value in self.values.items()]
        (folder / "settings.env").write_text("\n".join([*lines, ""]))
        return folder


# ---------------------------------------------------------------- the history of one home


def first_promotion(stack: Stack) -> Run:
    """The scheduled first run, promoted into an empty slot; its probation ends in time."""
    stack.tick_until(lambda: stack.app.store.history(1), "first run")
    run = stack.reach(stack.newest_run(), Stage.PROBATION)
    stack.evaluate(run, days=1.0, rows=40)
    stack.days_pass(1.2, rows=40)
    return stack.finish(run, Outcome.PROMOTED)


def interrupted_training(stack: Stack) -> Run:
    """A run that is stopped in TRAIN: the first of two variants is done, the second has some epochs."""
    run = stack.request_run("new exchange")
    checkpoint = stack.home / "checkpoints" / run.run_id / f"{run.run_id}.checkpoint"

    def is_in_second_variant() -> bool:
        if not checkpoint.exists():
            return False
        state = torch.load(checkpoint, weights_only=True)["state"]
        return len(state["finished"]) == 1 and state["state"] is not None and len(state["state"]["history"]) >= 3

    stack.tick_until(lambda: run_stage(stack, run) is Stage.TRAIN, "training")
    trigger(stack.app._client, reason="fees have changed", requested_by="ada")
    stack.tick_until(is_in_second_variant, "second variant")
    stack.app.interrupt()
    assert stack.run_of(run.run_id).outcome is Outcome.INTERRUPTED
    return run


def run_stage(stack: Stack, run: Run) -> Stage:
    return stack.run_of(run.run_id).stage


def shadow_evaluations(stack: Stack, run: Run) -> None:
    """The resumed run goes on trial and is evaluated twice; the run that was requested meanwhile is skipped."""
    stack.tick_until(lambda: run_stage(stack, run) is Stage.SHADOW, "on trial")
    stack.reload(MIN_NEW_SAMPLES="1000")
    stack.tick_until(lambda: stack.newest_run().run_id != run.run_id, "follow-up run")
    stack.finish(stack.newest_run(), Outcome.SKIPPED)
    run = stack.reach(run, Stage.SHADOW)
    for _ in range(2):
        stack.evaluate(run, days=0.75, rows=40)


def probation_evaluations(stack: Stack, run: Run) -> None:
    """The trial is passed, the candidate promoted; three evaluations of its probation, the last of them decides."""
    stack.reload(PROBATION_HOURS="120")
    stack.days_pass(1.5, rows=80)
    run = stack.reach(run, Stage.PROBATION)
    for _ in range(3):
        stack.evaluate(run, days=1.1, rows=40)
    assert stack.run_of(run.run_id).fact(Stage.PROBATION)["num_decided"] > 0


def end_of_probation(stack: Stack, run: Run) -> Run:
    stack.days_pass(2.0, rows=40)
    return stack.finish(run, Outcome.PROMOTED)


def runs_without_promotion(stack: Stack) -> Run:
    """FAILED in PULL, REFUSED in AUDIT, REFUSED in GATE by a failed gate and by undecided ones; the last of these."""
    away = stack.market.path.rename(stack.market.path.with_name("away.db"))
    stack.finish(stack.request_run("after the outage"), Outcome.FAILED)
    away.rename(stack.market.path)
    stack.reload(MIN_NEW_SAMPLES="50", MAX_CONTRADICTION_SHARE="0")
    stack.finish(stack.request_run("stricter labels"), Outcome.REFUSED)
    stack.reload(MAX_CONTRADICTION_SHARE="0.05", SHADOW_MIN_OUTCOMES="0", GATE_MIN_SPREAD_STD="0.5")
    stack.finish(stack.request_run("weekly"), Outcome.REFUSED)
    stack.reload(GATE_MIN_SPREAD_STD="0.05", GATE_MIN_ROWS="5000", MAX_EPOCHS="1", LEARNING_RATE="0.000001")
    stack.days_pass(1.0, rows=60)
    return stack.finish(stack.request_run("new features"), Outcome.REFUSED)


def forced_promotion(stack: Stack, judged: Run) -> None:
    """A person promotes the untrained candidate of `judged`; the probation takes it back and blocks its bytes."""
    order = stack.carry_out(stack.order(OrderKind.PROMOTE, "the market has turned", run_id=judged.run_id, force="yes"))
    run = stack.reach(stack.run_of(order.arguments["opened"]), Stage.PROBATION)
    stack.evaluate(run, days=1.0, rows=40)
    stack.finish(run, Outcome.ROLLED_BACK)


def orders_and_edits(stack: Stack, *, older: Path, newer: Path) -> None:
    """An order that an edit of the env file undoes, two edits, one order that is done, one that is refused."""
    order = stack.order(OrderKind.ROLLBACK, "loses money", version=older.stem)
    while (begun := stack.app.store.deployment(order.order_id)) is None:
        orders.carry_out(order, stack.app.world)
    assert begun.state is DeploymentState.INTENDED
    stack.edit_env_file(stack.home / "engine/models/by_hand.pth")
    stack.edit_env_file(older)
    stack.days_pass(0.5, rows=20)
    stack.carry_out(stack.order(OrderKind.ROLLBACK, "the edit was a mistake", version=newer.stem))
    stack.carry_out(stack.order(OrderKind.ROLLBACK, "back to last year's", version="patchtst_v20250101_000000"))
    stack.days_pass(2.0, rows=140)


def memory_and_events(stack: Stack, older: Path, newer: Path) -> None:
    """A lost stream and a clock that goes back, both noted in `memory`; pending events; an order that waits."""
    lost = stream_of(EventType.SKIPPED)
    stack.app._client.delete(lost)
    stack.tick_until(lambda: stack.app.store.recall(f"relay/lost_top/{lost}"), "Redis has lost a stream")
    stack.clock.set(stack.clock() - timedelta(days=5))
    stack.tick_until(lambda: stack.app.store.recall("clock_went_back"), "clock went back")
    stack.clock.set(stack.clock() + timedelta(days=5))
    stack.reload(**{**SETTINGS, "MIN_NEW_SAMPLES": "1000"})
    run = stack.app.begin("trigger", "ada: once more")
    while not run.is_finished:
        run = advance(run, stack.app.world).run
        time.sleep(0.02)
    assert run.outcome is Outcome.SKIPPED, run
    # as after a kill between the commit that stores the id and the command that sends the event
    pending = stack.app.store.pending_events(9)
    milliseconds = int(stack.clock().timestamp() * 1000)
    stack.app.store.assign_stream_ids({pending[0].event.event_id: f"{milliseconds}-0"})
    stack.order(OrderKind.ROLLBACK, "the new one is slow", version=older.stem, only_from=str(newer))


def keep_streams(stack: Stack, folder: Path) -> None:
    """The newest entries of each stream in Redis, one a line, and the ids that a consumer of events has handled."""
    client, lines = stack.app._client, []
    for stream in sorted(text_of(key) for key in client.keys(f"{STREAM_PREFIX}*")):
        for stream_id, fields in entries_in(client.xrevrange(stream, count=20)):
            lines.append({"stream": stream, "id": stream_id, "fields": in_text(fields)})
    lines.append({"hash": CURRENT_MODEL_KEY, "fields": in_text(client.hgetall(CURRENT_MODEL_KEY))})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "streams.jsonl").write_text(text.replace(str(stack.home), stored_home.PLACEHOLDER))
    with ModelEvents(
        stack.app.redis_url, group="risk", consumer="risk-1", handled_file=folder / "handled.jsonl"
    ) as events:
        for event in islice(events, 5):
            events.acknowledge(event)


def in_text(fields: Mapping[Any, Any]) -> dict[str, str]:
    return {text_of(name): text_of(value) for name, value in fields.items()}


# ---------------------------------------------------------------- older schemas


def keep_schema_1(folder: Path, home: Path) -> None:
    """The rows of `train` as schema 1 would hold them, and two promotions that were cut short before the run in TRAIN.

    One was given up before the env line changed. The other was killed, and nothing says how far it came.
    """
    with closing(older_database(folder / "state/state.sql", home, version=1)) as connection:
        for run_id, outcome, reason, state in (
            ("20260106_120000", "FAILED", "no space left on device", "UNDONE"),
            ("20260107_060000", "ABANDONED", "run 20260107_060000 (promote) died 3 times", "INTENDED"),
        ):
            at = datetime.strptime(run_id, "%Y%m%d_%H%M%S").replace(tzinfo=UTC).isoformat(timespec="microseconds")
            values = {
                "id": run_id,
                "version": version_of(run_id),
                "sha256": "0" * 64,
                "state": state,
                "at": at,
                "outcome": outcome,
                "reasons": json.dumps([reason]),
            }
            connection.execute(
                "INSERT INTO runs SELECT :id, requested_by, request_reason, :at, :at, 'PROMOTE', :outcome, :reasons,"
                " :at, num_deaths, num_retries, not_before,"
                " json_set(json_remove(facts, '$.promote'), '$.train.version', :version), seconds"
                " FROM runs WHERE outcome = 'PROMOTED'",
                values,
            )
            connection.execute(
                "INSERT INTO deployments SELECT NULL, :id, :id, kind, :version, replace(model_path, version, :version),"
                " :sha256, size_bytes, version, model_path, :state, :at, :at, requested_by, reason, ''"
                " FROM deployments WHERE sequence = 1",
                values,
            )
        connection.execute("CREATE TEMP TABLE in_order AS SELECT * FROM runs ORDER BY run_id")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM runs")
        connection.execute("INSERT INTO runs SELECT * FROM in_order")
        connection.commit()
    stored_home.dump(home / "older.db", folder / "state/state_schema_1.sql", home=home)


def keep_schema_2(folder: Path, home: Path) -> None:
    """The rows of `history` as schema 2 would hold them, and a run that was killed in PULL."""
    with closing(older_database(folder / "state/state.sql", home, version=2)) as connection:
        connection.execute("DELETE FROM orders WHERE kind = 'promote' OR json_extract(arguments, '$.run_id') NOT NULL")
        connection.execute(
            "INSERT INTO runs VALUES ('20260131_000000', 'schedule', 'every 24 h', '2026-01-31T00:00:00.000000+00:00',"
            " '2026-01-31T00:00:00.000000+00:00', 'PULL', NULL, '[]', NULL, 0, 0, NULL, '{}', '{}')"
        )
        connection.commit()
    stored_home.dump(home / "older.db", folder / "state/state_schema_2.sql", home=home)


#: what the programs of schemas 1 and 2 did not know: trials, probation, spending, forced promotions
_BEFORE_SCHEMA_3 = """
CREATE TEMP TABLE forced AS SELECT run_id FROM runs WHERE json_extract(facts, '$.gate.forced') NOT NULL;
DELETE FROM outbox WHERE correlation_id IN forced;
DELETE FROM deployments WHERE run_id IN forced;
DELETE FROM runs WHERE run_id IN forced;
UPDATE runs SET stage = 'PROMOTE', reasons = json_array(json_extract(reasons, '$[0]')) WHERE stage = 'PROBATION';
UPDATE runs SET facts = json_remove(facts, '$.gate.spending', '$.shadow', '$.probation'),
    seconds = json_remove(seconds, '$.shadow', '$.probation');
UPDATE outbox SET payload = json_remove(payload, '$.trial', '$.forced');
DELETE FROM memory WHERE key NOT IN ('watermark_path', 'booked_until', 'clock_went_back', 'relay/current_model');
UPDATE memory SET value = (SELECT max(run_id) FROM runs WHERE run_id <= value) WHERE key = 'booked_until';
"""


def older_database(sql: Path, home: Path, *, version: int) -> sqlite3.Connection:
    """A database of an older schema with the rows of `sql`, without what the programs of that schema did not know."""
    path, source = home / "older.db", home / "newer.db"
    for old in (path, source):
        old.unlink(missing_ok=True)
    stored_home.restore(sql, source, home=home)
    connection = sqlite3.connect(path)
    for statement in (statement for migration in MIGRATIONS[:version] for statement in migration):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("ATTACH ? AS newer", (str(source),))
    for (table,) in connection.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'").fetchall():
        if not table.startswith("sqlite_"):
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
    connection.commit()
    connection.execute("DETACH newer")
    connection.executescript(_BEFORE_SCHEMA_3)
    return connection


# ---------------------------------------------------------------- the whole recording


def record_home(folder: Path) -> None:
    stack = Stack(folder, rows=760)
    with stack.running():
        first = first_promotion(stack)
        second = interrupted_training(stack)
    keep_schema_1(stack.keep("train"), stack.home.parent)
    stack.values |= {"SHADOW_MIN_OUTCOMES": "120", "SHADOW_SKILL_ALPHA": "0.2"}
    with stack.running():
        shadow_evaluations(stack, second)
    stack.keep("shadow")
    with stack.running():
        probation_evaluations(stack, second)
    stack.keep("probation")
    older, newer = (model_file(stack.home / "engine/models", version_of(run.run_id)) for run in (first, second))
    with stack.running():
        end_of_probation(stack, second)
        forced_promotion(stack, runs_without_promotion(stack))
        orders_and_edits(stack, older=older, newer=newer)
        memory_and_events(stack, older, newer)
        keep_streams(stack, stored_home.FOLDER)
    keep_schema_2(stack.keep("history"), stack.home.parent)
    stored_home.dump(stack.market.path, stored_home.FOLDER / "trader.sql", home=stack.home)
    keep_model(newer, "paper")


def record_engine_model(folder: Path) -> None:
    """A candidate of the preset `engine`, whatever its gate says."""
    stack = Stack(folder, rows=1_400, PRESET="engine", MAX_EPOCHS="2")
    with stack.running():
        stack.tick_until(lambda: stack.app.store.history(1), "first run")
        run = stack.newest_run()
        stack.tick_until(lambda: stack.run_of(run.run_id).fact(Stage.TRAIN), "trained")
        keep_model(Path(stack.run_of(run.run_id).fact(Stage.TRAIN)["candidate_path"]), "engine")


def keep_model(model: Path, preset: str) -> None:
    folder = stored_home.FOLDER / "models" / preset
    folder.mkdir(parents=True)
    for file in (model, checksum_file(model), manifest_file(model)):
        shutil.copyfile(file, folder / file.name)


def main() -> None:
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = str(ROOT)  # worker processes, too, take the package from here
    journal.configure(level="WARNING", form="text")
    stored_home.FOLDER.mkdir(exist_ok=True)
    for old in stored_home.FOLDER.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.name != "README.md":
            old.unlink()
    with tempfile.TemporaryDirectory(prefix="record-157e5f3-") as scratch:
        for name, record in (("main", record_home), ("engine", record_engine_model)):
            folder = Path(scratch) / name
            folder.mkdir()
            record(folder)


if __name__ == "__main__":
    main()
