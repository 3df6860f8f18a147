"""The gates decide as docs/contracts/gates.md defines, and fail closed."""

from dataclasses import replace

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
    GatePolicy,
    GateResult,
    Pool,
    Scorecard,
    Skill,
    Slice,
    decide,
    pool_alphas,
)

POLICY = GatePolicy()
GOOD_CARD = Scorecard(
    n=900,
    num_win=520,
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
    worst_fall_z=0.4,
    agreement=Agreement(n=800, share=0.6, share_low=0.56, share_high=0.64, opposed=0.2, kappa=0.3, fallbacks=10),
    slices=(Slice(name="BTCUSDT", n=200, auc=0.77, auc_high=0.84, actions={"BUY": 0.6, "SELL": 0.4}, p_std=0.2),),
)
GOOD = Evidence(
    candidate=GOOD_CARD,
    contract=ContractCheck(mismatches=(), canary_max_error=1e-7, constant_input_share=0.0),
    incumbent=replace(GOOD_CARD, log_loss=0.56),
    comparison=Comparison(n=900, auc_difference=0.01, log_loss_gain=0.01, log_loss_gain_low=-0.002),
)


def with_card(**changes: object) -> Evidence:
    return replace(GOOD, candidate=replace(GOOD_CARD, **changes))


def result_of(evidence: Evidence, name: str, policy: GatePolicy = POLICY) -> GateResult:
    return next(gate.result for gate in decide(evidence, policy).gates if gate.name == name)


def test_a_good_candidate_passes_every_gate():
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
        ("calibration", with_card(worst_fall_z=3.0)),
        ("calibration", with_card(ece=0.081)),
        ("calibration", with_card(confidence_slope=0.6, confidence_slope_high=0.86)),
        ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], auc=0.49, auc_high=0.6, auc_lag_high=-0.01),))),
        ("skill", with_card(auc_low=0.5)),
        ("skill", with_card(log_loss_gain_low=0.0)),
        ("incumbent", replace(GOOD, comparison=replace(GOOD.comparison, log_loss_gain_low=-0.011))),
        ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], actions={"BUY": 1.0}),))),
        ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], auc=0.3, auc_high=0.45),))),
    ],
)
def test_one_failing_gate_refuses(gate, evidence):
    verdict = decide(evidence, POLICY)

    assert result_of(evidence, gate) is GateResult.FAIL
    assert verdict.decision is Decision.REFUSE
    assert verdict.reasons[0].startswith(gate)


@pytest.mark.parametrize(
    "field", ["auc", "auc_low", "log_loss_gain_low", "ece", "ece_limit", "p_std", "p10_p90", "worst_fall_z"]
)
def test_what_was_not_measured_is_not_a_pass(field):
    verdict = decide(with_card(**{field: None}), POLICY)

    assert verdict.decision is Decision.UNDECIDED
    assert verdict.reasons


@given(n=st.integers(0, POLICY.min_rows - 1))
def test_too_few_rows_never_pass(n):
    assert decide(with_card(n=n), POLICY).decision is not Decision.PASS


def test_agreement_is_shown_but_counts_only_when_required():
    disagreeing = with_card(agreement=replace(GOOD_CARD.agreement, share=0.4))

    assert result_of(disagreeing, "agreement") is GateResult.FAIL
    assert decide(disagreeing, POLICY).decision is Decision.PASS
    assert decide(disagreeing, replace(POLICY, agreement_required=True)).decision is Decision.REFUSE


def test_without_an_incumbent_the_other_gates_decide():
    alone = replace(GOOD, incumbent=None, comparison=None, incumbent_absence="no PATCHTST_MODEL_PATH")

    assert decide(alone, POLICY).decision is Decision.PASS


def test_an_incumbent_that_fails_its_own_gates_protects_nobody():
    collapsed = replace(
        GOOD, incumbent=replace(GOOD_CARD, p_std=0.001), comparison=replace(GOOD.comparison, log_loss_gain_low=-0.5)
    )

    assert result_of(collapsed, "incumbent") is GateResult.PASS


def test_a_sound_incumbent_without_a_comparison_leaves_it_undecided():
    assert decide(replace(GOOD, comparison=None), POLICY).decision is Decision.UNDECIDED


def test_an_unreplayed_canary_is_undecided():
    blind = replace(GOOD, contract=replace(GOOD.contract, canary_max_error=None))

    assert decide(blind, POLICY).decision is Decision.UNDECIDED


NOBODY_KNOWS = replace(GOOD.contract, unknown="/engine/old.pth: it cannot be read: No such file or directory")


def test_a_model_in_the_slot_that_nobody_can_read_is_not_an_empty_slot():
    verdict = decide(replace(GOOD, incumbent=None, comparison=None, contract=NOBODY_KNOWS), POLICY)

    assert verdict.decision is Decision.UNDECIDED
    [reason] = verdict.reasons
    assert reason.startswith("contract: nobody knows what the engine runs: /engine/old.pth")
    for way_out in ("correct PATCHTST_MODEL_PATH", "roll back", "promote RUN --accept-contract CONTRACT"):
        assert way_out in reason


@pytest.mark.parametrize(
    "broken",
    [
        replace(NOBODY_KNOWS, mismatches=("preset: the engine runs engine",)),
        replace(NOBODY_KNOWS, canary_max_error=0.01),
        replace(NOBODY_KNOWS, constant_input_share=1.0),
    ],
)
def test_what_is_known_to_be_wrong_weighs_more_than_what_nobody_knows(broken):
    assert result_of(replace(GOOD, contract=broken), "contract") is GateResult.FAIL


def test_the_share_of_constant_inputs_is_a_threshold_like_the_others():
    stale = replace(GOOD, contract=replace(GOOD.contract, constant_input_share=0.3))

    assert result_of(stale, "contract") is GateResult.PASS
    assert result_of(stale, "contract", replace(POLICY, max_constant_input_share=0.2)) is GateResult.FAIL


def test_failures_stand_before_what_is_undecided():
    both = replace(with_card(p_std=0.01), comparison=None)

    assert [reason.split(":")[0] for reason in decide(both, POLICY).reasons] == ["confidence spread", "incumbent"]


def pool(num_folds: int, *, auc_low: float | None = 0.6, gain_low: float | None = 0.01) -> Pool:
    return Pool(
        num_folds=num_folds,
        n=900 + 700 * num_folds,
        num_blocks=30,
        alpha=1e-4,
        auc=0.7,
        auc_low=auc_low,
        log_loss_gain=0.05,
        log_loss_gain_low=gain_low,
    )


def with_skill(*pools: Pool, newest_auc_low: float | None = 0.55, num_folds: int = 3, **card: object) -> Evidence:
    fold = Fold(
        first_at="2025-12-01T00:00:00+00:00", last_at="2025-12-05T00:00:00+00:00", n=700, auc=0.7, log_loss_gain=0.05
    )
    return replace(
        with_card(**card),
        skill=Skill(folds=(fold,) * num_folds, folds_wanted=3, pools=pools, newest_auc_low=newest_auc_low),
    )


LUCKY = pool(0, auc_low=0.48)


def test_past_folds_carry_a_holdout_that_is_too_short_to_prove_skill_alone():
    evidence = with_skill(LUCKY, pool(1), pool(2), pool(3))

    assert result_of(evidence, "skill") is GateResult.PASS


def test_one_lucky_holdout_is_not_enough():
    # its own bounds are beyond doubt at skill_alpha, as the scorecard says; the pooled bounds are not
    evidence = with_skill(LUCKY, pool(1, gain_low=-0.01), pool(2, auc_low=0.49), pool(3, gain_low=-0.01))

    assert result_of(replace(evidence, skill=None), "skill") is GateResult.PASS
    assert result_of(evidence, "skill") is GateResult.FAIL
    assert decide(evidence, POLICY).decision is Decision.REFUSE


def test_a_past_that_knew_another_market_may_be_left_out():
    evidence = with_skill(LUCKY, pool(1), pool(2, auc_low=0.4), pool(3, auc_low=0.4))
    gate = next(gate for gate in decide(evidence, POLICY).gates if gate.name == "skill")

    assert gate.result is GateResult.PASS
    assert "1 backtest folds (not the 2 older)" in gate.message


@pytest.mark.parametrize("newest", [with_skill(pool(3), newest_auc_low=0.5), with_skill(pool(3), log_loss_gain=-0.001)])
def test_a_brilliant_past_does_not_excuse_the_newest_holdout(newest):
    assert result_of(newest, "skill") is GateResult.FAIL


@pytest.mark.parametrize(
    ("alone", "together_high", "result"),
    [
        (0.75, 0.64, GateResult.FAIL),  # the holdout is not sure of it (0.95), the folds are
        (0.75, 0.88, GateResult.PASS),
        (0.88, 0.64, GateResult.PASS),  # the folds knew another market: the holdout does not agree
        (0.75, None, GateResult.PASS),
        (None, 0.64, GateResult.PASS),
    ],
)
def test_past_folds_tell_an_overconfident_recipe_where_the_newest_holdout_agrees(alone, together_high, result):
    evidence = with_skill(pool(3), confidence_slope=alone, confidence_slope_high=None if alone is None else 0.95)
    told = replace(evidence, skill=replace(evidence.skill, confidence_slope=0.56, confidence_slope_high=together_high))
    gate = next(gate for gate in decide(told, POLICY).gates if gate.name == "calibration")

    assert gate.result is result
    if result is GateResult.FAIL:
        assert gate.message == (
            "overconfident: 0.75 of its log odds are earned, and with the backtest folds 0.56, surely under 0.64"
        )


@pytest.mark.parametrize(
    "evidence",
    [
        with_skill(),
        with_skill(pool(3, auc_low=None)),
        with_skill(pool(3), newest_auc_low=None),
        with_skill(pool(3), n=199),
    ],
)
def test_skill_that_could_not_be_measured_is_undecided(evidence):
    assert result_of(evidence, "skill") is GateResult.UNDECIDED


@given(alpha=st.floats(1e-9, 0.2), wanted=st.integers(0, 5))
def test_the_pools_together_spend_no_more_than_one_decision_may(alpha, wanted):
    levels = pool_alphas(alpha, wanted)

    assert sum(levels) <= alpha
    assert list(levels) == sorted(levels)


def test_an_incumbent_need_not_prove_its_skill_anew_but_must_not_be_a_burden():
    worse = replace(GOOD.comparison, log_loss_gain_low=-0.5)
    doubtful = replace(GOOD_CARD, auc_low=0.45, log_loss_gain_low=-0.02)
    useless = replace(GOOD_CARD, log_loss_gain=-0.01)

    assert result_of(replace(GOOD, incumbent=doubtful, comparison=worse), "incumbent") is GateResult.FAIL
    assert result_of(replace(GOOD, incumbent=useless, comparison=worse), "incumbent") is GateResult.PASS
