"""Asking often does not promote by luck sooner or later, and does not make promotion impossible either."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.domain.alpha_spending import AlphaSpending, spend

START = datetime(2026, 1, 1, tzinfo=UTC)


def asked(gaps_days: list[float], *, skill_alpha: float = 0.001, per_year: float = 0.1) -> list[AlphaSpending]:
    at, last, found = START, None, []
    for gap in gaps_days:
        at += timedelta(days=gap)
        last = spend(last, at=at, skill_alpha=skill_alpha, per_year=per_year)
        found.append(last)
    return found


@given(gaps=st.lists(st.floats(0, 400), min_size=1, max_size=60))
def test_expected_false_promotions_stay_under_the_budget_however_often_one_asks(gaps: Any) -> None:
    years = sum(gaps[1:]) / 365.25
    spent = asked(gaps)

    assert sum(each.alpha for each in spent) <= 0.01 + 0.1 * years + 1e-12
    assert all(0 < each.alpha <= 0.001 for each in spent)


def test_the_first_decision_and_one_after_a_long_pause_have_all_of_skill_alpha() -> None:
    first, *_, late = asked([0, *[0.01] * 50, 365])

    assert first.alpha == late.alpha == pytest.approx(0.001)


def test_daily_asking_settles_at_a_days_share_of_the_budget_and_stays_there_for_years() -> None:
    spent = asked([1.0] * 365 * 5)

    assert spent[365].alpha == pytest.approx(0.1 / 365.25, rel=0.01)
    assert spent[-1].alpha == pytest.approx(0.1 / 365.25, rel=0.001)
    assert spent[-1].num_decisions == 365 * 5
    assert spent[-1].since == spent[0].at


def test_asking_again_at_once_costs_a_tenth() -> None:
    first, second = asked([0, 0])

    assert second.alpha == pytest.approx(0.9 * first.alpha)


def test_without_a_budget_every_decision_has_skill_alpha() -> None:
    assert {each.alpha for each in asked([0, 0, 1], per_year=0.0)} == {0.001}


def test_a_clock_that_goes_back_refills_nothing() -> None:
    first, second = asked([0, -100])

    assert second.alpha + second.left == first.left, "not even a second's share"
    assert second.alpha == pytest.approx(0.0009)
