"""The seconds left of a training follow the pace, and count all variants and backtest folds."""

import pytest

from retrain_worker.domain.worker_protocol import Progress
from retrain_worker.worker.training.work_left import WorkLeft


def test_what_is_left_follows_the_pace_and_shrinks_with_what_is_skipped() -> None:
    reported: list[Progress] = []
    clock = [0.0]
    work = WorkLeft(reported.append, 1000.0, now=lambda: clock[0])
    work.report("begin")
    work.skip(200.0)
    clock[0] = 10.0
    work.advance(100.0)
    work.report("epoch 1", loss=0.5)
    work.skip(300.0)
    work.report("stopped early")

    assert [each.seconds_left for each in reported] == [None, pytest.approx(70.0), pytest.approx(40.0)]
    assert [each.share for each in reported] == [pytest.approx(0.0), pytest.approx(0.3), pytest.approx(0.6)]
    assert reported[1].fields == {"loss": 0.5}
