from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.serving.handled_events import HandledEvents


def test_without_a_file_the_newest_ids_are_kept_and_no_more() -> None:
    handled = HandledEvents(most=3)
    for number in range(5):
        handled.add(str(number))
    handled.add("3")

    assert [str(number) in handled for number in range(5)] == [False, False, True, True, True]


@given(st.lists(st.text(), max_size=40))
def test_what_one_life_handled_the_next_one_knows_whatever_the_ids_look_like(
    tmp_path_factory: pytest.TempPathFactory,
    ids: Any,
) -> None:
    path = tmp_path_factory.mktemp("handled") / "ids"
    first = HandledEvents(path)
    for event_id in ids:
        first.add(event_id)

    assert all(event_id in HandledEvents(path) for event_id in ids)


def test_the_file_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    handled = HandledEvents(path, most=10)
    for number in range(1000):
        handled.add(str(number))
        assert len(path.read_text().splitlines()) <= 20

    assert "999" in HandledEvents(path, most=10)
    assert "900" not in HandledEvents(path, most=10)


def test_a_torn_line_and_foreign_bytes_cost_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_bytes(b'"one"\n\xff\xfe\n[1]\n"two"\n"thr')

    again = HandledEvents(path)
    again.add("four")

    assert all(event_id in HandledEvents(path) for event_id in ("one", "two", "four"))


def test_a_file_that_cannot_be_written_any_more_costs_no_event(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    handled = HandledEvents(folder / "ids")
    (folder / "ids").unlink()
    folder.rmdir()

    handled.add("one")

    assert "one" in handled
    assert "cannot write" in caplog.text
