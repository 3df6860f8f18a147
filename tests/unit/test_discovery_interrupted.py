"""A search that is interrupted in any phase gives a pack of what was found until then, marked as incomplete."""

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from retrain_worker.discovery.discover import Discovery, discover, with_verdict
from retrain_worker.discovery.progress import Progress
from retrain_worker.discovery.proof_pack import Quality, Role
from retrain_worker.discovery.proof_pack_markdown import markdown
from retrain_worker.discovery.proof_pack_screen import screen
from retrain_worker.discovery.read_only_sqlite import read
from tests.seed_tree import seed_tree


class StopIn(Progress):
    """Stops at the first step of a phase."""

    def __init__(self, phase: str = "") -> None:
        super().__init__()
        self.phase = phase
        self.phases: list[str] = []

    def show(self, phase: Any, done: Any, total: Any, subject: Any) -> None:
        self.phases.append(phase)
        if phase == self.phase:
            self.stop()


def found_in(root: Path, progress: Progress) -> Discovery:
    return discover(
        [root],
        cross_file_systems=False,
        configured=(),
        redis_url="",
        now=datetime(2026, 1, 10, tzinfo=UTC),
        progress=progress,
    )


def numbers(pack: Any) -> dict[str, int]:
    """Kind of file -> how many the pack accounts for."""
    listed = {
        "CSV file": pack.csv_files,
        "model or binary data file": pack.models,
        "JSON lines": pack.observations,
        "Redis file": pack.redis_files,
    }
    return {kind: len(files) + pack.walk.left_out.get(kind, 0) for kind, files in listed.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, list[Any]]:
    root = tmp_path_factory.mktemp("interrupted") / "host"
    root.mkdir()
    seed_tree(root, rows=300)
    progress = StopIn()
    return root, found_in(root, progress).pack, list(dict.fromkeys(progress.phases))


PHASES = [
    "walking",
    "reading env files",
    "reading units",
    "reading scripts",
    "reading databases",
    "describing the source",
    "comparing databases",
    "comparing files",
    "reading CSV files",
    "reading models",
    "reading observations",
    "reading Redis files",
]


def test_a_complete_search_goes_through_every_phase_and_leaves_nothing_out(whole: tuple[Any, Any, list[Any]]) -> None:
    _, pack, phases = whole
    assert phases == PHASES
    assert (pack.interrupted, pack.walk.left_out) == ("", {})


@pytest.mark.parametrize("phase", PHASES)
def test_an_interruption_keeps_what_was_found_and_accounts_for_the_rest(
    whole: tuple[Any, Any, list[Any]],
    phase: Any,
) -> None:
    root, complete, _ = whole
    found = found_in(root, StopIn(phase))
    assert found.pack.interrupted == phase
    pack = with_verdict(found.pack, Quality(is_fit=True, reasons=()), interrupted=found.pack.interrupted)
    assert not pack.is_ready
    assert any("interrupted" in reason for reason in pack.reasons)
    assert "**INCOMPLETE**" in markdown(pack)
    assert screen(pack).startswith("verdict     INCOMPLETE")
    msgspec.json.encode(pack)
    if phase == "walking":
        return
    assert numbers(pack) == numbers(complete)
    assert {each.file.path for each in pack.databases} == {each.file.path for each in complete.databases}
    unexamined = {each.why.partition(":")[0] for each in pack.databases if each.role is Role.NOT_EXAMINED}
    assert ("not read" in unexamined) == (PHASES.index(phase) <= PHASES.index("reading databases"))
    assert unexamined <= {"not read", "not compared with the source"}
    assert bool(unexamined) == (PHASES.index(phase) <= PHASES.index("comparing databases"))
    wrong = {each.path for each in complete.configured if each.is_wrong}
    assert {each.path for each in pack.configured if each.is_wrong} <= wrong
    if PHASES.index(phase) > PHASES.index("comparing files"):
        assert pack.source == complete.source


def test_a_statement_ends_when_the_search_is_stopped_or_its_time_is_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute("CREATE TABLE t (x)")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    readings = []

    def reading(seconds: Any) -> Any:
        def count(connection: Any) -> Any:
            readings.append(seconds)
            return connection.rows(endless, seconds=seconds)

        return count

    began = time.monotonic()
    for seconds, is_stopped in ((0.1, lambda: False), (20.0, lambda: True)):
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            read(reading(seconds), tmp_path / "x.db", is_stopped=is_stopped)
    assert readings == [0.1, 20.0]  # an interrupted reading is not repeated
    assert time.monotonic() - began < 15
