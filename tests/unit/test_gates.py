"""The gate decides as DESIGN 4.6 says, and fails closed."""

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
    GatePolicy,
    GateResult,
    Scorecard,
    Slice,
    decide,
)

POLICY = GatePolicy()
GOOD_CARD = Scorecard(
    n=900, num_win=520, num_blocks=30, auc=0.78, auc_low=0.71, log_loss=0.55, prior_log_loss=0.68, log_loss_gain=0.13,
    log_loss_gain_low=0.08, brier=0.19, ece=0.03, ece_limit=0.05, accuracy=0.72, precision=0.73, recall=0.75,
    f1_score=0.74, actions={"BUY": 0.5, "SELL": 0.3, "HOLD": 0.2}, p_mean=0.57, p_std=0.22, p10_p90=0.6,
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


@pytest.mark.parametrize(("gate", "evidence"), [
    ("contract", replace(GOOD, contract=replace(GOOD.contract, mismatches=("context_length 64, engine has 128",)))),
    ("contract", replace(GOOD, contract=replace(GOOD.contract, canary_max_error=0.01))),
    ("contract", replace(GOOD, contract=replace(GOOD.contract, constant_input_share=1.0))),
    ("action diversity", with_card(actions={"BUY": 0.71, "SELL": 0.2, "HOLD": 0.09})),
    ("action diversity", with_card(actions={"BUY": 0.05, "SELL": 0.65, "HOLD": 0.05})),
    ("action diversity", with_card(actions={"BUY": 0.0, "SELL": 0.0, "HOLD": 1.0})),
    ("confidence spread", with_card(p_std=0.049)),
    ("confidence spread", with_card(p10_p90=0.119)),
    ("calibration", with_card(worst_fall_z=3.0)),
    ("calibration", with_card(ece=0.066)),
    ("skill", with_card(auc_low=0.5)),
    ("skill", with_card(log_loss_gain_low=0.0)),
    ("incumbent", replace(GOOD, comparison=replace(GOOD.comparison, log_loss_gain_low=-0.011))),
    ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], actions={"BUY": 1.0}),))),
    ("stability", with_card(slices=(replace(GOOD_CARD.slices[0], auc=0.3, auc_high=0.45),))),
])
def test_one_failing_gate_refuses(gate, evidence):
    verdict = decide(evidence, POLICY)

    assert result_of(evidence, gate) is GateResult.FAIL
    assert verdict.decision is Decision.REFUSE
    assert verdict.reasons[0].startswith(gate)


@pytest.mark.parametrize("field", ["auc", "auc_low", "log_loss_gain_low", "ece", "ece_limit", "p_std", "p10_p90",
                                   "worst_fall_z"])
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
    collapsed = replace(GOOD, incumbent=replace(GOOD_CARD, p_std=0.001),
                        comparison=replace(GOOD.comparison, log_loss_gain_low=-0.5))

    assert result_of(collapsed, "incumbent") is GateResult.PASS


def test_a_sound_incumbent_without_a_comparison_leaves_it_undecided():
    assert decide(replace(GOOD, comparison=None), POLICY).decision is Decision.UNDECIDED


def test_an_unreplayed_canary_is_undecided():
    blind = replace(GOOD, contract=replace(GOOD.contract, canary_max_error=None))

    assert decide(blind, POLICY).decision is Decision.UNDECIDED


def test_failures_stand_before_what_is_undecided():
    both = replace(with_card(p_std=0.01), comparison=None)

    assert [reason.split(":")[0] for reason in decide(both, POLICY).reasons] == ["confidence spread", "incumbent"]
