"""Rows 25-38 of the field's list, from the outbox to a consumer: nothing lost, nothing twice, in order, said once."""

import pytest

from tests.faults.event_scenarios import SCENARIOS, play


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_and_nothing_comes_twice(name: str) -> None:
    tally = play(name)

    assert tally.enqueued == tally.distinct == tally.in_stream, tally
    assert tally.handled == tally.handled_distinct == tally.enqueued, tally
    assert tally.in_order
    assert len(tally.problems) <= 2, tally.problems
    assert SCENARIOS[name].said in "; ".join(tally.problems + tally.notices)
