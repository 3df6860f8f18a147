"""The gates decide as docs/reference/gates.md defines, and fail closed."""

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.domain.gates import (
    Agreement,
    Comparison,
    ContractCheck,
    Decision,
    Evidence,
    Fold,
    GateOutcome,
    GatePolicy,
    GateProfile,
    PooledEstimate,
    Scorecard,
    Skill,
    Slice,
    decide,
)
from retrain_worker.domain.gates.check import Check, lower_bound
from retrain_worker.domain.gates.decision import GATES
from retrain_worker.domain.gates.gate import Gate
from retrain_worker.domain.gates.skill import pool_alphas
from retrain_worker.domain.problem import Problem, ProblemKind
from tests.known import known

POLICY = GatePolicy()
GOOD_CARD = Scorecard(
    n=900,
    num_win=450,
    num_blocks=30,
    auc=0.78,
    auc_low=0.71,
    log_loss=0.55,
    prior_log_loss=0.68,
    log_loss_gain=0.13,
    log_loss_gain_low=0.08,
    brier=0.19,
    ece=0.03,
    ece_limit=0.05,
    accuracy=0.72,
    precision=0.73,
    recall=0.75,
    f1_score=0.74,
    actions={"BUY": 0.5, "SELL": 0.3, "HOLD": 0.2},
    p_mean=0.57,
    p_std=0.22,
    p10_p90=0.6,
    monotonicity_z=0.4,
    agreement=Agreement(n=800, share=0.6, share_low=0.56, share_high=0.64, opposed=0.2, kappa=0.3, fallbacks=10),
    slices=(Slice(name="BTCUSDT", n=200, auc=0.77, auc_high=0.84, actions={"BUY": 0.6, "SELL": 0.4}, p_std=0.2),),
)
GOOD = Evidence(
    candidate=GOOD_CARD,
    contract=ContractCheck(mismatches=(), canary_max_error=1e-7, constant_input_share=0.0),
    incumbent=replace(GOOD_CARD, log_loss=0.56),
    comparison=Comparison(n=900, auc_difference=0.01, log_loss_gain=0.01, log_loss_gain_low=-0.002),
)


def with_card(**changes: Any) -> Evidence:
    return replace(GOOD, candidate=replace(GOOD_CARD, **changes))


def result_of(evidence: Evidence, name: str, policy: GatePolicy = POLICY) -> GateOutcome:
    return next(gate.result for gate in decide(evidence, policy).gates if gate.name == name)


def test_a_good_candidate_passes_every_gate() -> None:
    verdict = decide(GOOD, POLICY)

    assert verdict.decision is Decision.PASS, verdict.reasons
    assert verdict.reasons == ()
    assert verdict.policy == POLICY


@pytest.mark.parametrize(
    ("gate", "evidence"),
    [
        ("contract", replace(GOOD, contract=replace(GOOD.contract, mismatches=("context_length 64, engine has 128",)))),
        ("contract", replace(GOOD, contract=replace(GOOD.contract, canary_max_error=0.01))),
        ("contract", replace(GOOD, contract=replace(GOOD.contract, constant_input_share=1.0))),
        ("action diversity", with_card(actions={"BUY": 0.71, "SELL": 0.2, "HOLD": 0.09})),
        ("action diversity", with_card(actions={"BUY": 0.05, "SELL": 0.65, "HOLD": 0.05})),
        ("action diversity", with_card(actions={"BUY": 0.0, "SELL": 0.0, "HOLD": 1.0})),
        ("confidence spread", with_card(p_std=0.049)),
        ("confidence spread", with_card(p10_p90=0.119)),
        ("calibration", with_card(monotonicity_z=3.0)),
        ("calibration", with_card(ece=0.081)),
        ("calibration", with_card(calibration_slope=0.6, calibration_slope_high=0.86)),
        ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], auc=0.49, auc_high=0.6, auc_lag_high=-0.01),))),
        ("skill", with_card(auc_low=0.5)),
        ("skill", with_card(log_loss_gain_low=0.0)),
        ("incumbent", replace(GOOD, comparison=replace(known(GOOD.comparison), log_loss_gain_low=-0.011))),
        ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], n=50, actions={"BUY": 1.0}),))),
        ("action diversity", with_card(actions={"BUY": 0.6})),
        ("action diversity", with_card(actions={"BUY": 0.6, "SELL": 0.1, "HOLD": 0.1})),
        ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], auc=0.3, auc_high=0.45),))),
    ],
)
def test_one_failing_gate_refuses(gate: str, evidence: Evidence) -> None:
    verdict = decide(evidence, POLICY)

    assert result_of(evidence, gate) is GateOutcome.FAIL
    assert verdict.decision is Decision.REFUSE
    assert verdict.reasons[0].startswith(gate)


@pytest.mark.parametrize(
    "field", ["auc", "auc_low", "log_loss_gain_low", "ece", "ece_limit", "p_std", "p10_p90", "monotonicity_z"]
)
def test_an_unmeasured_value_is_not_a_pass(field: str) -> None:
    verdict = decide(with_card(**{field: None}), POLICY)

    assert verdict.decision is Decision.UNDECIDED
    assert verdict.reasons


@given(n=st.integers(0, POLICY.min_rows - 1))
def test_too_few_rows_never_pass(n: Any) -> None:
    assert decide(with_card(n=n), POLICY).decision is not Decision.PASS


def test_agreement_is_advisory_unless_it_is_required() -> None:
    good = known(GOOD_CARD.agreement)
    for changed in (replace(good, share=0.54), replace(good, share=0.86), replace(good, opposed=0.25)):
        disagreeing = with_card(agreement=changed)

        assert result_of(disagreeing, "agreement") is GateOutcome.FAIL
        assert decide(disagreeing, POLICY).decision is Decision.PASS
        assert decide(disagreeing, replace(POLICY, agreement_required=True)).decision is Decision.REFUSE


def test_agreement_on_too_few_rows_is_undecided() -> None:
    few = with_card(agreement=replace(known(GOOD_CARD.agreement), n=POLICY.min_rows - 1))
    enough = with_card(agreement=replace(known(GOOD_CARD.agreement), n=POLICY.min_rows))

    assert result_of(few, "agreement") is GateOutcome.UNDECIDED
    assert result_of(enough, "agreement") is GateOutcome.PASS
    assert decide(few, replace(POLICY, agreement_required=True)).decision is Decision.UNDECIDED


@pytest.mark.parametrize(
    ("gate", "evidence"),
    [
        ("agreement", with_card(agreement=None)),
        ("incumbent", replace(GOOD, comparison=None)),
    ],
)
def test_a_gate_without_any_row_is_undecided(gate: str, evidence: Evidence) -> None:
    result = next(result for result in decide(evidence, POLICY).gates if result.name == gate)

    assert result.result is GateOutcome.UNDECIDED
    assert result.message == "0 rows could be measured, 200 are required"


@pytest.mark.parametrize(("share", "is_borderline"), [(0.75, False), (0.751, True)])
def test_agreement_above_its_threshold_is_called_borderline(share: float, is_borderline: bool) -> None:
    evidence = with_card(agreement=replace(known(GOOD_CARD.agreement), share=share))
    result = next(result for result in decide(evidence, POLICY).gates if result.name == "agreement")

    assert result.result is GateOutcome.PASS
    assert result.message.endswith("kappa 0.30" + "; borderline" * is_borderline)


@pytest.mark.parametrize(("kappa", "text"), [(0.3, "kappa 0.30"), (None, "kappa not defined")])
def test_the_kappa_stands_beside_the_agreement(kappa: float | None, text: str) -> None:
    evidence = with_card(agreement=replace(known(GOOD_CARD.agreement), kappa=kappa))
    result = next(result for result in decide(evidence, POLICY).gates if result.name == "agreement")

    assert text in result.message


@pytest.mark.parametrize(
    "evidence",
    [
        with_card(calibration_slope=0.5, calibration_slope_high=None),
        with_card(slices=(replace(GOOD_CARD.slices[0], auc=0.6, auc_high=0.7, auc_lag_high=-0.01),)),
        with_card(slices=(replace(GOOD_CARD.slices[0], auc=None, auc_high=0.4),)),
        with_card(slices=(replace(GOOD_CARD.slices[0], actions={}),)),
        with_card(slices=(GOOD_CARD.slices[0], replace(GOOD_CARD.slices[0], n=49, actions={"BUY": 1.0}))),
    ],
    ids=[
        "slope without a bound",
        "slice behind but above chance",
        "slice of one class",
        "slice without actions",
        "slice of few rows",
    ],
)
def test_what_is_not_shown_to_be_wrong_does_not_fail(evidence: Evidence) -> None:
    assert decide(evidence, POLICY).decision is Decision.PASS


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_a_gate_with_min_rows_is_undecided_below_them(gate: Gate) -> None:
    few = POLICY.min_rows - 1
    evidence = with_card(n=few, agreement=replace(known(GOOD_CARD.agreement), n=few))
    evidence = replace(evidence, comparison=replace(known(GOOD.comparison), n=few))
    result = gate.judge(evidence, POLICY)

    assert (result.result is GateOutcome.UNDECIDED) == ("min_rows" in gate.thresholds)
    if result.result is GateOutcome.UNDECIDED:
        assert result.message.startswith("199 rows could be measured, 200 are required")


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_a_gate_declares_the_thresholds_that_it_applies(gate: Gate) -> None:
    """A threshold that is changed to any extreme changes no gate that does not declare it."""
    # without an incumbent, because its gate applies other gates to it
    evidence = replace(with_skill(pool(0), pool(3)), incumbent=None)
    for name, value in asdict(POLICY).items():
        for other in GateProfile if isinstance(value, GateProfile) else map(type(value), (0.0, 1.0, 10**6)):
            changes: dict[str, Any] = {name: other}
            changed = replace(POLICY, **changes)
            if name not in gate.thresholds:
                assert gate.judge(evidence, changed) == gate.judge(evidence, POLICY), name


@pytest.mark.parametrize(
    ("num_win", "actions", "result"),
    [
        (450, {"BUY": 0.71, "SELL": 0.2, "HOLD": 0.09}, GateOutcome.FAIL),
        (540, {"BUY": 0.74, "SELL": 0.2, "HOLD": 0.06}, GateOutcome.PASS),
        (540, {"BUY": 0.76, "SELL": 0.18, "HOLD": 0.06}, GateOutcome.FAIL),
        (540, {"BUY": 0.2, "SELL": 0.71, "HOLD": 0.09}, GateOutcome.FAIL),
        (540, {"BUY": 0.2, "SELL": 0.09, "HOLD": 0.71}, GateOutcome.FAIL),
        (360, {"BUY": 0.2, "SELL": 0.74, "HOLD": 0.06}, GateOutcome.PASS),
        (870, {"BUY": 0.74, "SELL": 0.26, "HOLD": 0.0}, GateOutcome.PASS),
        (870, {"BUY": 0.76, "SELL": 0.24, "HOLD": 0.0}, GateOutcome.FAIL),
        (870, {"BUY": 1.0, "SELL": 0.0, "HOLD": 0.0}, GateOutcome.FAIL),
    ],
)
def test_the_limit_of_an_action_is_higher_by_what_its_outcome_exceeds_one_half(
    num_win: int, actions: dict[str, float], result: GateOutcome
) -> None:
    assert result_of(with_card(num_win=num_win, actions=actions), "action diversity") is result


def test_the_calibrated_profile_judges_the_sides_of_the_prior() -> None:
    calibrated = replace(POLICY, profile=GateProfile.CALIBRATED)
    hold = {"BUY": 0.0, "SELL": 0.0, "HOLD": 1.0}
    for above, result in ((0.5, GateOutcome.PASS), (0.69, GateOutcome.PASS), (0.71, GateOutcome.FAIL)):
        assert result_of(with_card(actions=hold, above_prior=above), "action diversity", calibrated) is result
    part = replace(GOOD_CARD.slices[0], actions=hold, above_prior=0.6)
    assert result_of(with_card(slices=(part,)), "stability", calibrated) is GateOutcome.PASS
    assert result_of(with_card(slices=(part,)), "stability") is GateOutcome.FAIL
    one_sided = replace(part, above_prior=1.0)
    assert result_of(with_card(slices=(one_sided,)), "stability", calibrated) is GateOutcome.FAIL


def test_a_decision_that_spends_less_asks_more_of_the_holdout_alone() -> None:
    spent = POLICY.spending(POLICY.skill_alpha / 10)
    assert spent == replace(
        POLICY,
        skill_alpha=POLICY.skill_alpha / 10,
        holdout_alpha=POLICY.holdout_alpha / 10,
        gain_alpha=POLICY.gain_alpha / 10,
    )


def test_a_candidate_that_is_hardly_better_than_the_incumbent_is_refused() -> None:
    for gain, result in ((0.0051, GateOutcome.PASS), (0.0049, GateOutcome.FAIL)):
        paired = replace(known(GOOD.comparison), log_loss_gain=gain)
        assert result_of(replace(GOOD, comparison=paired), "incumbent") is result


def test_each_threshold_belongs_to_a_gate() -> None:
    assert {name for gate in GATES for name in gate.thresholds} == set(asdict(POLICY))


def test_the_failure_of_a_gate_is_a_problem_with_what_it_means_and_what_was_measured() -> None:
    [problem] = decide(with_card(p_std=0.01), POLICY).problems

    assert problem == Problem(
        kind=ProblemKind.GATE_FAILED,
        subject="confidence spread",
        cause="the probabilities hardly differ from row to row: std of P(WIN) 0.010, required ≥ 0.050",
    )


def test_without_an_incumbent_the_other_gates_decide() -> None:
    for absence, shown in (("no PATCHTST_MODEL_PATH", "no PATCHTST_MODEL_PATH"), ("", "none is named")):
        verdict = decide(replace(GOOD, incumbent=None, comparison=None, incumbent_absence=absence), POLICY)
        message = next(gate.message for gate in verdict.gates if gate.name == "incumbent")

        assert verdict.decision is Decision.PASS
        assert message == f"no incumbent to compare with: {shown}; the other gates decide"


def test_an_incumbent_that_fails_its_own_gates_is_not_compared_with() -> None:
    collapsed = replace(
        GOOD,
        incumbent=replace(GOOD_CARD, p_std=0.001),
        comparison=replace(known(GOOD.comparison), log_loss_gain_low=-0.5),
    )

    assert result_of(collapsed, "incumbent") is GateOutcome.PASS


def test_a_sound_incumbent_without_a_comparison_leaves_it_undecided() -> None:
    assert decide(replace(GOOD, comparison=None), POLICY).decision is Decision.UNDECIDED


def test_an_unreplayed_canary_is_undecided() -> None:
    blind = replace(GOOD, contract=replace(GOOD.contract, canary_max_error=None))

    assert decide(blind, POLICY).decision is Decision.UNDECIDED


UNKNOWN = replace(GOOD.contract, unknown="/engine/old.pth: it cannot be read: No such file or directory")


def test_an_unreadable_model_in_the_slot_is_not_an_empty_slot() -> None:
    verdict = decide(replace(GOOD, incumbent=None, comparison=None, contract=UNKNOWN), POLICY)

    assert verdict.decision is Decision.UNDECIDED
    [reason] = verdict.reasons
    assert reason.startswith("contract: the engine's contract is unknown: /engine/old.pth")
    for way_out in ("correct PATCHTST_MODEL_PATH", "roll back", "promote RUN --accept-contract CONTRACT"):
        assert way_out in reason


@pytest.mark.parametrize(
    "broken",
    [
        replace(UNKNOWN, mismatches=("preset: the engine runs engine",)),
        replace(UNKNOWN, canary_max_error=0.01),
        replace(UNKNOWN, constant_input_share=1.0),
    ],
)
def test_what_is_known_to_be_wrong_outweighs_what_is_unknown(broken: Any) -> None:
    assert result_of(replace(GOOD, contract=broken), "contract") is GateOutcome.FAIL


def test_the_share_of_constant_inputs_is_a_threshold_like_the_others() -> None:
    stale = replace(GOOD, contract=replace(GOOD.contract, constant_input_share=0.3))

    assert result_of(stale, "contract") is GateOutcome.PASS
    assert result_of(stale, "contract", replace(POLICY, max_constant_input_share=0.2)) is GateOutcome.FAIL


def test_failures_come_before_undecided_gates() -> None:
    both = replace(with_card(p_std=0.01), comparison=None)

    assert [reason.split(":")[0] for reason in decide(both, POLICY).reasons] == ["confidence spread", "incumbent"]


def pool(num_folds: int, *, auc_low: float | None = 0.6, gain_low: float | None = 0.01) -> PooledEstimate:
    return PooledEstimate(
        num_folds=num_folds,
        n=900 + 700 * num_folds,
        num_blocks=30,
        alpha=1e-4,
        auc=0.7,
        auc_low=auc_low,
        log_loss_gain=0.05,
        log_loss_gain_low=gain_low,
    )


def with_skill(
    *pools: PooledEstimate, holdout_auc_low: float | None = 0.55, num_folds: int = 3, **card: object
) -> Evidence:
    fold = Fold(
        first_at="2025-12-01T00:00:00+00:00", last_at="2025-12-05T00:00:00+00:00", n=700, auc=0.7, log_loss_gain=0.05
    )
    return replace(
        with_card(**card),
        skill=Skill(folds=(fold,) * num_folds, pooled=pools, holdout_auc_low=holdout_auc_low),
    )


LUCKY = pool(0, auc_low=0.48)


def test_backtest_folds_decide_for_a_holdout_that_is_too_short_to_show_skill_alone() -> None:
    evidence = with_skill(LUCKY, pool(1), pool(2), pool(3))

    assert result_of(evidence, "skill") is GateOutcome.PASS


def test_one_lucky_holdout_is_not_enough() -> None:
    # the scorecard's bounds at skill_alpha pass; the pooled bounds do not
    evidence = with_skill(LUCKY, pool(1, gain_low=-0.01), pool(2, auc_low=0.49), pool(3, gain_low=-0.01))

    assert result_of(replace(evidence, skill=None), "skill") is GateOutcome.PASS
    assert result_of(evidence, "skill") is GateOutcome.FAIL
    assert decide(evidence, POLICY).decision is Decision.REFUSE


def test_folds_of_another_market_regime_are_left_out() -> None:
    evidence = with_skill(LUCKY, pool(1), pool(2, auc_low=0.4), pool(3, auc_low=0.4))
    gate = next(gate for gate in decide(evidence, POLICY).gates if gate.name == "skill")

    assert gate.result is GateOutcome.PASS
    assert "1 backtest folds (not the 2 older)" in gate.message


@pytest.mark.parametrize("newest", [with_skill(pool(3), holdout_auc_low=0.5), with_skill(pool(3), log_loss_gain=0.0)])
def test_good_backtest_folds_do_not_outweigh_the_holdout(newest: Evidence) -> None:
    assert result_of(newest, "skill") is GateOutcome.FAIL


@pytest.mark.parametrize(
    ("alone", "pooled_high", "result"),
    [
        (0.75, 0.64, GateOutcome.FAIL),  # the bound of the holdout alone (0.95) does not show it, the pooled one does
        (0.75, 0.88, GateOutcome.PASS),
        (0.88, 0.64, GateOutcome.PASS),  # the holdout does not agree with the folds
        (0.87, 0.64, GateOutcome.PASS),
        (0.75, None, GateOutcome.PASS),
        (None, 0.64, GateOutcome.PASS),
    ],
)
def test_backtest_folds_show_overconfidence_where_the_holdout_agrees(
    alone: float | None,
    pooled_high: float | None,
    result: Any,
) -> None:
    evidence = with_skill(pool(3), calibration_slope=alone, calibration_slope_high=None if alone is None else 0.95)
    evidence = replace(
        evidence, skill=replace(known(evidence.skill), calibration_slope=0.56, calibration_slope_high=pooled_high)
    )
    gate = next(gate for gate in decide(evidence, POLICY).gates if gate.name == "calibration")

    assert gate.result is result
    if result is GateOutcome.FAIL:
        assert gate.message == (
            "calibration slope with backtest folds, 95 % upper confidence bound 0.640, required ≥ 0.870"
        )


@pytest.mark.parametrize(
    "evidence",
    [
        with_skill(),
        with_skill(pool(3, auc_low=None)),
        with_skill(pool(3), holdout_auc_low=None),
        with_skill(pool(3), n=199),
    ],
)
def test_skill_that_could_not_be_measured_is_undecided(evidence: Evidence) -> None:
    assert result_of(evidence, "skill") is GateOutcome.UNDECIDED


@given(alpha=st.floats(1e-9, 0.2), wanted=st.integers(0, 5))
def test_the_pools_together_spend_no_more_than_one_decision_may(alpha: Any, wanted: Any) -> None:
    levels = pool_alphas(alpha, wanted)

    assert len(levels) == wanted + 1
    assert levels[-1] == alpha / 2
    assert sum(levels) <= alpha
    assert list(levels) == sorted(levels)


def test_the_skill_of_an_incumbent_need_not_be_significant_but_must_be_positive() -> None:
    worse = replace(known(GOOD.comparison), log_loss_gain_low=-0.5)
    doubtful = replace(GOOD_CARD, auc_low=0.45, log_loss_gain_low=-0.02)

    assert result_of(replace(GOOD, incumbent=doubtful, comparison=worse), "incumbent") is GateOutcome.FAIL
    for useless in (replace(GOOD_CARD, log_loss_gain=0.0), replace(GOOD_CARD, auc=0.5)):
        evidence = replace(GOOD, incumbent=useless, comparison=worse)
        assert result_of(evidence, "incumbent") is GateOutcome.PASS
    for unmeasured in (
        replace(GOOD_CARD, auc=None, log_loss_gain=-0.01),
        replace(GOOD_CARD, auc=0.4, log_loss_gain=None),
    ):
        evidence = replace(GOOD, incumbent=unmeasured, comparison=worse)
        assert result_of(evidence, "incumbent") is GateOutcome.FAIL


@pytest.mark.parametrize(
    ("limits", "met", "unmet", "required"),
    [
        ({"low": 0.5}, (0.5, 0.51), (0.49, None, float("nan")), "≥ 0.500"),
        ({"low": 0.5, "is_strict": True}, (0.51,), (0.5, 0.49, None), "> 0.500"),
        ({"high": 0.5, "format": ".0%"}, (0.5, 0.49), (0.51, None, float("nan")), "≤ 50 %"),
        ({"high": 0.5, "is_strict": True, "format": "+.1f"}, (0.49,), (0.5, 0.51, None), "< +0.5"),
        ({"low": 0.5, "high": 0.6}, (0.5, 0.55, 0.6), (0.49, 0.61, None), "0.500 to 0.600"),
    ],
)
def test_a_check_is_met_within_its_limits(
    limits: Any,
    met: Any,
    unmet: tuple[float, None, float] | tuple[float, float, None],
    required: str,
) -> None:
    checks = [Check(name="x", label="x", value=value, **limits) for value in (*met, *unmet)]

    assert [check.is_met for check in checks] == [True] * len(met) + [False] * len(unmet)
    assert {check.required for check in checks} == {required}


@pytest.mark.parametrize(
    ("alpha", "level"),
    [(0.001, "99.9 %"), (0.05, "95 %"), (0.1, "90 %"), (1.25e-4, "99.987 %"), (1e-9, "99.9999999 %")],
)
def test_a_bound_is_labelled_with_its_confidence_level(alpha: float, level: str) -> None:
    assert lower_bound("AUC", alpha) == f"AUC, {level} lower confidence bound"
