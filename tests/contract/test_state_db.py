"""The state database: one transaction per move, an outbox in order, and a file that is checked before it is trusted."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.adapters import state_schema
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.state_lock import StateLock
from retrain_worker.domain import events
from retrain_worker.domain.alpha_spending import spend
from retrain_worker.domain.facts import RunFacts
from retrain_worker.domain.lifecycle import DeploymentKind, DeploymentState, Outcome, Stage
from retrain_worker.errors import AlreadyRunningError, SlotError, StateError
from tests.contract.test_run_store import AT, DEPLOYMENT, RUN
from tests.known import known
from tests.run_facts import forced_gate_facts, gate_facts, probation_facts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def state(path: Path) -> Iterator[StateDb]:
    with StateDb(path) as state:
        yield state


def names(directory: Path) -> list[Any]:
    return sorted(each.name for each in directory.iterdir())


def opened(state: StateDb, at: Any = AT) -> Any:
    return state.open_run(
        requested_by="schedule", reason="it is time", at=at, announce=lambda run: [events.started(run, at=at)]
    )


def test_a_run_is_opened_with_its_event(state: StateDb) -> None:
    run, is_new = opened(state)
    assert is_new
    assert run.run_id == "20260110_033000"
    assert state.run(run.run_id) == run == state.unfinished_run()
    assert [row.event for row in state.pending_events(9)] == [events.started(run, at=AT)]


def test_there_is_one_unfinished_run_at_most(state: StateDb) -> None:
    run, _ = opened(state)
    assert opened(state, AT + timedelta(hours=1)) == (run, False)
    assert state.num_pending() == 1
    with pytest.raises(StateError, match="exclude"):
        state.record(replace(RUN, run_id="20260111_000000"))


def test_runs_of_one_second_have_ids_of_their_own(state: StateDb) -> None:
    for expected in ("20260110_033000", "20260110_033001", "20260110_033002"):
        run, _ = opened(state)
        assert run.run_id == expected
        state.record(run.ended(Outcome.FAILED, "broken", at=AT))
    assert [run.run_id for run in state.history(2)] == ["20260110_033002", "20260110_033001"]
    assert state.last_attempt_at() == AT


def test_the_instant_of_a_run_is_kept_in_utc(state: StateDb) -> None:
    run, _ = opened(state, AT.astimezone(datetime.now().astimezone().tzinfo))
    assert state.run(run.run_id).created_at == AT
    assert state.run(run.run_id).created_at.utcoffset() == timedelta(0)


def test_a_move_and_its_events_are_stored_together_or_not_at_all(state: StateDb, path: Path) -> None:
    run, _ = opened(state)
    other = replace(events.finished(run.ended(Outcome.FAILED, "x", at=AT), at=AT), payload={"cannot": object()})
    with pytest.raises(TypeError):
        state.record(run.ended(Outcome.FAILED, "x", at=AT), events=[other], deployment=DEPLOYMENT)
    assert state.unfinished_run() == run
    assert state.num_pending() == 1
    assert state.deployments(9) == []


def test_events_leave_the_outbox_in_order(state: StateDb) -> None:
    run, _ = opened(state)
    done = run.ended(Outcome.SKIPPED, "too few rows", at=AT)
    state.record(done, events=[events.finished(done, at=AT + timedelta(seconds=5))])
    first, second = state.pending_events(9)
    assert [row.event.event_type for row in (first, second)] == [
        "learning.retraining.started",
        "learning.retraining.skipped",
    ]
    assert state.oldest_pending_at() == AT
    state.assign_stream_ids({first.event.event_id: "5-0"})
    assert state.pending_events(1)[0].stream_id == "5-0"
    state.mark_sent([first.event.event_id], at=AT)
    assert [row.event for row in state.pending_events(9)] == [second.event]
    assert state.num_pending() == 1
    assert state.oldest_pending_at() == AT + timedelta(seconds=5)


def test_an_event_that_the_stream_has_lost_is_pending_again_without_an_id(state: StateDb) -> None:
    opened(state)
    event = state.pending_events(1)[0].event
    state.assign_stream_ids({event.event_id: "5-0"})
    state.mark_sent([event.event_id], at=AT)
    assert state.sent_event_ids(event.stream, since=AT) == [event.event_id]
    assert state.highest_sent_milliseconds(event.stream, since=AT) == 5
    assert state.sent_event_ids(event.stream, since=AT + timedelta(microseconds=1)) == []
    assert state.sent_event_ids("another", since=AT) == []
    state.requeue([event.event_id])
    (row,) = state.pending_events(9)
    assert (row.stream_id, row.sent_at) == (None, None)
    assert state.sent_event_ids(event.stream, since=AT) == []


def test_an_unknown_event_cannot_be_marked(state: StateDb) -> None:
    with pytest.raises(StateError):
        state.mark_sent(["nobody"], at=AT)


def test_values_are_remembered(state: StateDb) -> None:
    assert state.recall("last_id", str) is None
    state.remember("last_id", "1-0")
    state.remember("last_id", "2-0")
    assert state.recall("last_id", str) == "2-0"
    assert state.recall("last_id", int) is None


def test_a_roll_back_is_a_deployment_without_a_run(state: StateDb) -> None:
    rollback = replace(
        DEPLOYMENT,
        deployment_id="rollback_20260111_000000",
        run_id=None,
        kind=DeploymentKind.ROLLBACK,
        state=DeploymentState.SWAPPED,
    )
    state.record_deployment(rollback, events=[events.rolled_back(rollback, shadow_only=True, at=AT)])
    assert state.last_deployment() == rollback
    assert state.num_pending() == 1


def test_every_thread_may_ask(state: StateDb) -> None:
    run, _ = opened(state)
    found = []

    def ask(number: int) -> None:
        state.remember(f"k{number}", "v")
        found.append(state.unfinished_run())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [run] * 4


def test_reading_beside_a_daemon_sees_what_is_committed_and_makes_no_file(state: StateDb, path: Path) -> None:
    run, _ = opened(state)
    before = names(path.parent)
    with StateDb(path, read_only=True) as reader:
        assert reader.unfinished_run() == run
        state.remember("a", "b")
        assert reader.recall("a", str) == "b"
        with pytest.raises(StateError):
            reader.remember("a", "c")
    assert names(path.parent) == before


def test_reading_after_the_daemon_makes_no_file(path: Path) -> None:
    with StateDb(path) as state:
        run, _ = opened(state)
    assert names(path.parent) == ["state.db"]
    with StateDb(path, read_only=True) as reader:
        assert reader.unfinished_run() == run
    assert names(path.parent) == ["state.db"]
    with pytest.raises(StateError):
        StateDb(path.with_name("another.db"), read_only=True)
    assert names(path.parent) == ["state.db"]


def test_a_killed_process_loses_nothing_that_was_committed(path: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from retrain_worker.adapters.state_db import StateDb\n"
        "state = StateDb(Path(sys.argv[1])); state.remember('a', 'b')\n"
        "state._connection.execute('BEGIN IMMEDIATE'); "
        "state._connection.execute(\"UPDATE memory SET value = '1'\")\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    with StateDb(path, read_only=True) as reader:
        assert reader.recall("a", str) == "b"
    with StateDb(path) as state:
        assert state.recall("a", str) == "b"


def test_a_commit_is_fsynced(state: StateDb) -> None:
    assert state._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert state._connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert state._connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_newer_database_is_refused_and_left_alone(path: Path) -> None:
    StateDb(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(StateError, match="newer"):
            StateDb(path, read_only=read_only)


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be looked at" * 100, None])
def test_a_damaged_database_is_refused_with_a_remedy(path: Path, content: Any) -> None:
    with StateDb(path) as state:
        for n in range(200):
            state.remember(f"key {n}", "v" * 200)
    if content is None:
        page = bytearray(path.read_bytes())
        page[3 * 4096 :] = os.urandom(len(page) - 3 * 4096)
        content = bytes(page)
    path.write_bytes(content)
    with pytest.raises(StateError) as caught:
        StateDb(path)
    assert "move it away" in caught.value.remedy


def test_an_older_database_is_migrated_and_keeps_what_it_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateDb(path) as state:
        run, _ = opened(state)
    monkeypatch.setattr(
        state_schema, "MIGRATIONS", (*state_schema.MIGRATIONS, ("CREATE TABLE another (a TEXT) STRICT",))
    )
    with StateDb(path) as state:
        assert state.unfinished_run() == run
        assert state._connection.execute("PRAGMA user_version").fetchone()[0] == len(state_schema.MIGRATIONS)


def test_a_migration_that_breaks_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateDb(path).close()
    monkeypatch.setattr(
        state_schema, "MIGRATIONS", (*state_schema.MIGRATIONS, ("CREATE TABLE another (a TEXT) STRICT", "BROKEN"))
    )
    with pytest.raises(StateError):
        StateDb(path)
    monkeypatch.undo()
    with StateDb(path) as state:
        assert state.unfinished_run() is None


def test_the_second_process_is_refused_and_the_first_keeps_its_lock(tmp_path: Path) -> None:
    with StateLock(tmp_path):
        script = (
            "import sys; from pathlib import Path; from retrain_worker.adapters.state_lock import StateLock\n"
            "StateLock(Path(sys.argv[1]))"
        )
        second = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert f"pid {os.getpid()}" in second.stderr
        with pytest.raises(AlreadyRunningError):
            StateLock(tmp_path)
    StateLock(tmp_path).release()


def test_a_lock_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match="gone"):
        StateLock(tmp_path / "gone")


def test_instants_sort_as_text_as_they_do_in_time(state: StateDb) -> None:
    opened(state, datetime(2026, 1, 10, 3, 30, tzinfo=UTC))
    event = state.pending_events(1)[0].event
    state.mark_sent([event.event_id], at=datetime(2026, 1, 10, 3, 30, 0, 500_000, tzinfo=UTC))
    assert state.sent_event_ids(event.stream, since=datetime(2026, 1, 10, 3, 30, tzinfo=UTC))
    assert not state.sent_event_ids(event.stream, since=datetime(2026, 1, 10, 3, 30, 1, tzinfo=UTC))


def test_what_was_spent_is_told_from_the_newest_decision_before_a_run(state: StateDb) -> None:
    assert state.alpha_spending_before(None) is None
    first = spend(None, at=AT, skill_alpha=0.001, per_year=0.1)
    second = spend(first, at=AT + timedelta(days=1), skill_alpha=0.001, per_year=0.1)
    ids = []
    for day, spent in enumerate((first, second, None, None)):
        run, _ = opened(state, AT + timedelta(days=day))
        ids.append(run.run_id)
        if spent:
            run = run.with_fact(gate_facts(alpha_spending=spent))
        state.record(run.ended(Outcome.FAILED, "test", at=AT + timedelta(days=day)))

    assert (
        state.alpha_spending_before(None)
        == state.alpha_spending_before(ids[3])
        == state.alpha_spending_before(ids[2])
        == second
    )
    assert state.alpha_spending_before(ids[1]) == first
    assert state.alpha_spending_before(ids[0]) is None


def waiting(state: StateDb, at: Any = AT) -> Any:
    """A run on trial, as the gate leaves it."""
    run, _ = opened(state, at)
    on_trial = replace(run, stage=Stage.SHADOW)
    state.record(on_trial)
    return on_trial


def test_a_run_that_waits_lets_another_one_work_and_two_never_work_at_once(state: StateDb) -> None:
    first = waiting(state)
    second, is_new = opened(state, AT + timedelta(hours=1))

    assert is_new
    assert [run.run_id for run in state.waiting_runs()] == [first.run_id]
    assert state.unfinished_run().run_id == second.run_id
    with pytest.raises(StateError):
        state.record(replace(first, stage=Stage.PROMOTE))


def test_bytes_are_condemned_by_a_probation_that_took_them_back_and_by_nothing_else(state: StateDb) -> None:
    run = waiting(state)
    promoted = replace(run, stage=Stage.PROBATION, outcome=Outcome.PROMOTED)
    state.record(promoted, deployment=replace(DEPLOYMENT, sha256="b" * 64, state=DeploymentState.CONFIRMED))
    assert state.blocked("b" * 64) is None
    worse = promoted.with_fact(probation_facts(rollback_reason="worse"))
    state.record(worse.ended(Outcome.ROLLED_BACK, "worse", at=AT))

    assert "worse" in known(state.blocked("b" * 64))
    assert state.blocked("c" * 64) is None


def test_reading_an_older_database_names_the_daemon_and_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(state_schema, "MIGRATIONS", state_schema.MIGRATIONS[:1])
        with closing(state_schema.connect(path)) as connection:
            state_schema.migrate(connection, path)
    with pytest.raises(StateError, match=r"written by an older version.*restart the daemon once"):
        StateDb(path, read_only=True)
    StateDb(path).close()
    StateDb(path, read_only=True).close()


def test_a_question_that_the_tables_do_not_answer_is_no_damage(path: Path) -> None:
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(StateError, match="does not have the tables") as raised,
        state_schema.named_errors(path),
    ):
        connection.execute("SELECT reached FROM deployments")
    assert "damaged" not in str(raised.value)


def test_a_forced_promotion_does_not_put_off_the_schedule(state: StateDb) -> None:
    run, _ = opened(state)
    state.record(run.ended(Outcome.REFUSED, "not better", at=AT))
    later = AT + timedelta(hours=3)
    forced = replace(
        RUN,
        run_id="20260110_063000",
        created_at=later,
        stage=Stage.PROMOTE,
        facts=RunFacts(gate=forced_gate_facts("20260110_033000")),
    )
    state.record(forced.ended(Outcome.PROMOTED, "forced", at=later))
    assert state.last_attempt_at() == AT


def test_closing_waits_for_a_statement_of_another_thread_and_nothing_opens_again(path: Path) -> None:
    state = StateDb(path)

    def read() -> None:
        with pytest.raises(StateError, match="closed"):
            while True:
                # long enough that the other thread closes the database in the middle of it
                state._rows(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000) SELECT sum(i) FROM n"
                )

    with ThreadPoolExecutor(4) as readers:
        reading = [readers.submit(read) for _ in range(4)]
        time.sleep(0.2)
        state.close()
        for each in reading:
            each.result(10)
    with pytest.raises(StateError, match="closed"):
        state.recall("a", str)
