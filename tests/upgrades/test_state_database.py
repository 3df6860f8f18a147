"""State databases of commit 157e5f3, at each schema that it knew, are migrated with all that they hold."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.adapters import state_schema, stored_json, stored_upgrades
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.facts import FACTS_SCHEMA
from retrain_worker.domain.gates import Decision
from retrain_worker.domain.lifecycle import DeploymentKind, DeploymentState, Run, Stage
from retrain_worker.errors import StateError
from retrain_worker.report.result import RunResult
from tests.report_pages import page_of
from tests.upgrades import stored_home

#: home, dump, schema
DUMPS = [
    ("train", "state/state_schema_1.sql", 1),
    ("history", "state/state_schema_2.sql", 2),
    ("train", "state/state.sql", 3),
    ("shadow", "state/state.sql", 3),
    ("probation", "state/state.sql", 3),
    ("history", "state/state.sql", 3),
]
TRIAL, FIRST, FORCED = "20260107_164818", "20260105_120000", "20260117_000127"


def state_of(name: str, home: Path, dump: str = "state/state.sql") -> Path:
    stored_home.load(name, home, state=dump)
    return home / "state/state.db"


@pytest.fixture
def history(tmp_path: Path) -> Iterator[StateDb]:
    with StateDb(state_of("history", tmp_path / "home")) as state:
        yield state


def table(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def run_in(name: str, run_id: str, home: Path) -> Run:
    with StateDb(state_of(name, home)) as state:
        found = state.run(run_id)
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "dump", "schema"), DUMPS)
def test_a_database_of_each_schema_is_migrated_and_a_copy_of_it_is_kept(
    tmp_path: Path, name: str, dump: str, schema: int
) -> None:
    path = state_of(name, tmp_path / "home", dump)
    runs = "SELECT run_id, stage, outcome, reasons, created_at, finished_at FROM runs ORDER BY rowid"
    before, dumped = table(path, runs), "\n".join(sqlite3.connect(path).iterdump())
    with StateDb(path) as state:
        found = state.history(limit=100)
    (copy,) = path.parent.glob("state.db.schema*Z")

    assert table(path, runs) == before
    assert [run.run_id for run in found] == [row[0] for row in reversed(before)]
    assert [run.run_id for run in found if run.facts.unreadable] == []
    assert table(path, "PRAGMA user_version") == [(len(state_schema.MIGRATIONS),)]
    assert copy.name.startswith(f"state.db.schema{schema}.")
    assert "\n".join(sqlite3.connect(copy).iterdump()) == dumped
    assert all(page_of(RunResult(run=run)) for run in found)

    StateDb(path).close()
    assert list(path.parent.glob("state.db.schema*Z")) == [copy], "a migrated database needs no other copy"


@pytest.mark.parametrize(("name", "dump", "schema"), DUMPS)
def test_whoever_only_reads_changes_nothing_and_names_the_daemon(
    tmp_path: Path, name: str, dump: str, schema: int
) -> None:
    path = state_of(name, tmp_path / "home", dump)
    before = path.read_bytes()
    with pytest.raises(StateError, match=f"schema {schema}, here"):
        StateDb(path, read_only=True)

    assert path.read_bytes() == before
    assert not list(path.parent.glob("state.db.schema*"))


def test_what_reached_the_env_line_is_known_also_of_a_database_that_did_not_note_it(tmp_path: Path) -> None:
    with StateDb(state_of("train", tmp_path / "home", "state/state_schema_1.sql")) as state:
        assert [one.deployment_id for one in state.reached_deployments()] == [FIRST]
        assert {one.state for one in state.deployments(9)} >= {DeploymentState.INTENDED, DeploymentState.UNDONE}


def test_two_runs_may_wait_and_work_at_once_in_a_database_whose_index_forbade_it(tmp_path: Path) -> None:
    with StateDb(state_of("history", tmp_path / "home", "state/state_schema_2.sql")) as state:
        run = state.unfinished_run()
        assert run is not None
        state.record(Run(**{**vars(run), "stage": Stage.SHADOW}))
        _, is_new = state.open_run(requested_by="schedule", reason="", at=datetime.now(UTC))
        assert is_new


def test_the_facts_of_each_stage_have_the_names_of_today(tmp_path: Path) -> None:
    facts = run_in("probation", TRIAL, tmp_path / "home").facts
    assert facts.pull and facts.audit and facts.train and facts.gate and facts.shadow and facts.promote
    assert facts.probation

    assert facts.pull.rows.labelled == 828
    assert any(finding.message for finding in facts.audit.findings)
    assert facts.train.policies is not None
    assert facts.train.policies.split.backtest_folds == 1
    assert facts.train.prior == pytest.approx(240 / 448)
    assert facts.gate.verdict.decision is Decision.PASS
    assert facts.gate.alpha_spending is not None
    assert facts.gate.candidate is not None
    assert facts.gate.candidate.monotonicity_z is not None
    assert len(facts.gate.folds) == 1
    assert facts.shadow.has_passed
    assert (facts.shadow.num_predictions, facts.shadow.num_outcomes) == (135, 135)
    assert facts.promote.confirmed is True
    assert (facts.probation.num_predictions, facts.probation.num_outcomes) == (117, 110)
    assert (facts.probation.num_analyses, facts.probation.num_outcomes_analysed) == (1, 110)
    assert facts.probation.log_loss_gain == pytest.approx(0.0667, abs=1e-4)
    run_dir = tmp_path / "home/models/runs" / TRIAL
    assert (run_dir / f"{facts.probation.prediction_log}.npy").exists(), "the prediction log goes on"
    assert (run_dir / f"{facts.shadow.prediction_log}.npy").exists()


def test_a_forced_promotion_that_was_taken_back_is_known_and_its_bytes_stay_blocked(history: StateDb) -> None:
    run = history.run(FORCED)
    assert run is not None
    assert run.facts.gate and run.facts.gate.forced and run.facts.promote and run.facts.probation

    assert run.facts.gate.forced.of_run == "20260117_000000"
    assert "skill" in run.facts.gate.forced.undecided
    assert run.facts.probation.rollback_reason.startswith("degenerate")
    assert "degenerate" in (history.blocked(run.facts.promote.sha256) or "")


def test_what_was_spent_is_the_newest_decision_that_was_not_forced(history: StateDb) -> None:
    spent = history.alpha_spending_before(None)

    assert spent is not None
    assert spent.num_decisions == 4


def test_what_stood_in_the_slot_who_put_it_there_and_what_waits_is_known(history: StateDb) -> None:
    external = [one for one in history.deployments(20) if one.kind is DeploymentKind.EXTERNAL]
    waiting = history.waiting_slot_request()

    assert [one.state for one in external] == [DeploymentState.NOT_ASKED] * 2
    assert waiting is not None
    assert waiting.arguments.version == FIRST.join(["patchtst_v", ""])
    assert waiting.arguments.only_from is not None
    assert history.request("promote_20260117_000107").arguments.is_forced
    assert [row.event.correlation_id for row in history.pending_events(9)] == ["20260120_120000"] * 2


def test_what_the_daemon_remembered_is_known(history: StateDb, tmp_path: Path) -> None:
    assert history.watermark_path() == tmp_path / "home/models/runs/20260117_000000/fingerprints.npy"
    keys = {row[0] for row in table(tmp_path / "home/state/state.db", "SELECT key FROM memory")}
    assert keys >= {"clock_went_back", "queued_request", "bookkeeping", "serving_monitor", "relay/current_model"}


# ---------------------------------------------------------------- a newer version


def make_newer(path: Path, statement: str) -> bytes:
    StateDb(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    return path.read_bytes()


NEWER = [
    f"PRAGMA user_version = {len(state_schema.MIGRATIONS) + 1}",
    "UPDATE runs SET facts = json_set(facts, '$.schema', 99) WHERE rowid = (SELECT max(rowid) FROM runs)",
    "UPDATE runs SET facts = json_set(facts, '$.schema', 99) WHERE finished_at IS NULL",
]


@pytest.mark.parametrize("statement", NEWER)
@pytest.mark.parametrize("mode", [{}, {"read_only": True}, {"is_owner": False}])
def test_what_a_newer_version_wrote_is_refused_in_one_sentence_and_nothing_is_changed(
    tmp_path: Path, statement: str, mode: dict[str, bool]
) -> None:
    path = state_of("shadow", tmp_path / "home")
    before = make_newer(path, statement)
    files = sorted(each.name for each in path.parent.iterdir())
    with pytest.raises(StateError, match="written by a newer version of this program") as raised:
        StateDb(path, **mode)

    assert "install the newer version again" in str(raised.value)
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == files


# ---------------------------------------------------------------- what is not as 157e5f3 wrote it

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FACTS = st.dictionaries(
    st.sampled_from(["pull", "audit", "train", "gate", "shadow", "promote", "probation", "other"]),
    st.dictionaries(
        st.sampled_from(
            ["gates", "decision", "reasons", "spending", "trained_under", "findings", "policy", "candidate"]
        )
        | st.sampled_from(["look", "book", "known", "worse_by", "tries", "symbols"]),
        JSON | st.lists(st.dictionaries(st.sampled_from(["name", "measurements", "sentence"]), JSON, max_size=3)),
        max_size=5,
    )
    | JSON,
    max_size=4,
)


@given(FACTS)
def test_no_facts_stop_a_migration_and_what_comes_of_them_can_be_decoded(facts: dict[str, Any]) -> None:
    upgraded = stored_upgrades.facts_1_to_2(facts)

    assert upgraded["schema"] == FACTS_SCHEMA
    stored_json.decode("facts", json.dumps(upgraded))


@given(st.dictionaries(st.text(max_size=9) | st.sampled_from(["telemetry/cursor", "follow_up"]), st.text(max_size=9)))
def test_nothing_that_was_remembered_stops_a_migration(values: dict[str, str]) -> None:
    json.dumps(stored_upgrades.memory(values))


def test_a_row_that_is_not_json_is_left_as_it_is_and_others_are_migrated(tmp_path: Path) -> None:
    path = state_of("history", tmp_path / "home")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET facts = '{torn' WHERE run_id = ?", (FIRST,))
        connection.execute("UPDATE orders SET arguments = '[' WHERE state = 'WAITING'")
    with StateDb(path) as state:
        torn, other, waiting = state.run(FIRST), state.run(TRIAL), state.waiting_slot_request()
        assert torn and other and waiting

        assert set(torn.facts.unreadable) == {
            "request",
            "pull",
            "audit",
            "train",
            "gate",
            "shadow",
            "rollout",
            "promote",
            "probation",
        }
        assert not other.facts.unreadable
        assert waiting.arguments.unreadable
        assert state.alpha_spending_before(None) is not None
        assert state.last_attempt_at() is not None


def test_a_decision_that_cannot_be_read_counts_as_one_that_left_nothing(tmp_path: Path) -> None:
    path = state_of("history", tmp_path / "home")
    with StateDb(path) as state:
        newest = "(SELECT run_id FROM runs WHERE json_extract(facts, '$.gate.alpha_spending') IS NOT NULL"
        newest += " ORDER BY rowid DESC LIMIT 1)"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                f"UPDATE runs SET facts = json_set(facts, '$.gate.alpha_spending.left', 'much') WHERE run_id = {newest}"
            )
        spent = state.alpha_spending_before(None)

        assert spent is not None
        assert (spent.left, spent.at) == (0.0, datetime(2026, 1, 17, 0, 0, tzinfo=UTC) + timedelta(microseconds=48747))
