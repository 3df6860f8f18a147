"""The result of each gate exactly: what it checks, how that is shown, what was measured, and which limits apply."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from retrain_worker.domain.gates import Decision, Evidence, GateOutcome, GatePolicy, GateResult, Slice, decide
from retrain_worker.domain.gates.check import lower_bound, upper_bound
from retrain_worker.domain.gates.contract import constant_window_of, fault_of_file
from retrain_worker.domain.problem import Problem, ProblemKind, problem_of
from retrain_worker.errors import SlotError
from tests.known import known
from tests.unit.test_gates import GOOD, GOOD_CARD, LUCKY, pool, with_card, with_skill

POLICY = GatePolicy()


def judged(evidence: Evidence, name: str, policy: GatePolicy = POLICY) -> GateResult:
    return next(gate for gate in decide(evidence, policy).gates if gate.name == name)


def checks_of(result: GateResult) -> list[str]:
    """Each check as `name: measured, required LIMIT, drawn from A to B`, and whether it is met."""
    return [
        f"{'met' if check.is_met else 'not met'}: {check.name}: {check.measured}, required {check.required}, "
        f"drawn from {check.scale[0]:g} to {check.scale[1]:g}"
        for check in result.checks
    ]


EVIDENCE = with_skill(LUCKY, pool(1), pool(2, auc_low=0.4), calibration_slope=0.8, calibration_slope_high=1.1)
EVIDENCE = replace(EVIDENCE, skill=replace(known(EVIDENCE.skill), calibration_slope=0.9, calibration_slope_high=1.2))


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        (
            "contract",
            [
                "met: num_mismatches: mismatches 0, required ≤ 0, drawn from 0 to 5",
                "met: canary_max_error: canary error 1e-07, required ≤ 1e-05, drawn from 0 to 2e-05",
                "met: constant_input_share: constant inputs 0 %, required ≤ 50 %, drawn from 0 to 1",
            ],
        ),
        (
            "action diversity",
            [
                "met: largest_action_share: most frequent action 50 %, required ≤ 70 %, drawn from 0 to 1",
                "met: second_action_share: second most frequent 30 %, required > 10 %, drawn from 0 to 1",
            ],
        ),
        (
            "confidence spread",
            [
                "met: p_std: std of P(WIN) 0.220, required ≥ 0.050, drawn from 0 to 0.5",
                "met: p10_p90: P90 - P10 of P(WIN) 0.600, required ≥ 0.120, drawn from 0 to 1",
            ],
        ),
        (
            "agreement",
            [
                "met: share: same action 60 %, required 55 % to 85 %, drawn from 0 to 1",
                "met: opposed: opposed 20 %, required < 25 %, drawn from 0 to 1",
            ],
        ),
        (
            "calibration",
            [
                "met: ece: ECE 0.030, required ≤ 0.080, drawn from 0 to 0.2",
                "met: monotonicity_z: largest drop of the hit rate, z 0.4, required ≤ 2.3, drawn from -4 to 4",
                "met: calibration_slope_high: calibration slope, 95 % upper confidence bound 1.100, required ≥ 0.870, "
                "drawn from 0 to 2",
                "met: pooled_calibration_slope_high: calibration slope with backtest folds, 95 % upper confidence "
                "bound 1.200, required ≥ 0.870, drawn from 0 to 2",
            ],
        ),
        (
            "skill",
            [
                "met: holdout_auc_low: AUC, holdout alone, 99.7 % lower confidence bound 0.550, required > 0.500, "
                "drawn from 0.3 to 1",
                "met: log_loss_gain: log loss gain, holdout alone +0.130, required > +0.000, drawn from -0.15 to 0.15",
                "met: auc_low: AUC, 99.99 % lower confidence bound 0.600, required > 0.500, drawn from 0.3 to 1",
                "met: log_loss_gain_low: log loss gain, 99.9 % lower confidence bound +0.010, required > +0.000, "
                "drawn from -0.15 to 0.15",
            ],
        ),
        (
            "incumbent",
            [
                "met: log_loss_gain_low: log loss gain, 95 % lower confidence bound -0.002, required ≥ -0.010, "
                "drawn from -0.15 to 0.15",
                "met: log_loss_gain: log loss gain +0.010, required ≥ +0.005, drawn from -0.15 to 0.15",
            ],
        ),
    ],
)
def test_each_check_of_a_gate_is_shown_with_its_limit(name: str, checks: list[str]) -> None:
    assert checks_of(judged(EVIDENCE, name)) == checks


@pytest.mark.parametrize(
    ("name", "details"),
    [
        ("contract", ""),
        ("action diversity", "; BUY 50%, HOLD 20%, SELL 30%"),
        ("confidence spread", ""),
        ("agreement", "; 95 % interval of the same action 56% to 64%; kappa 0.30"),
        ("calibration", ""),
        ("skill", "; pooled over 1600 rows of the holdout and 1 backtest folds (not the 2 older)"),
        ("incumbent", ""),
        ("stability", "; 1 slices of at least 50 rows"),
    ],
)
def test_the_message_of_a_gate_that_passes_is_what_was_measured_and_its_details(name: str, details: str) -> None:
    result = judged(EVIDENCE, name)

    assert result.message == "; ".join(check.measured for check in result.checks) + details
    assert result.problem is None


@pytest.mark.parametrize(
    ("name", "measurements"),
    [
        (
            "contract",
            {
                "num_mismatches": 0,
                "canary_max_error": 1e-7,
                "constant_input_share": 0.0,
                "constant_window_probability": None,
                "mismatches": [],
                "unknown": "",
            },
        ),
        (
            "action diversity",
            {
                "n": 900,
                "largest_action_share": 0.5,
                "second_action_share": 0.3,
                "actions": {"BUY": 0.5, "SELL": 0.3, "HOLD": 0.2},
            },
        ),
        ("confidence spread", {"n": 900, "p_std": 0.22, "p10_p90": 0.6}),
        ("agreement", asdict(known(GOOD_CARD.agreement))),
        (
            "calibration",
            {
                "n": 900,
                "ece": 0.03,
                "ece_limit": 0.05,
                "monotonicity_z": 0.4,
                "calibration_slope": 0.8,
                "calibration_slope_high": 1.1,
                "pooled_calibration_slope": 0.9,
                "pooled_calibration_slope_high": 1.2,
            },
        ),
        (
            "skill",
            {
                "n": 900,
                "auc": 0.78,
                "log_loss": 0.55,
                "num_blocks": 30,
                "holdout_auc_low": 0.55,
                "log_loss_gain": 0.13,
                "auc_low": 0.6,
                "log_loss_gain_low": 0.01,
                "pooled": asdict(pool(1)),
                "folds": [asdict(fold) for fold in known(EVIDENCE.skill).folds],
            },
        ),
        ("incumbent", {"n": 900, "auc_difference": 0.01, "log_loss_gain": 0.01, "log_loss_gain_low": -0.002}),
        (
            "stability",
            {
                "n": 900,
                "slice_auc_high": 0.84,
                "slice_action_share": 0.6,
                "slices": [asdict(GOOD_CARD.slices[0])],
            },
        ),
    ],
)
def test_each_measurement_of_a_gate_is_stored(name: str, measurements: dict[str, Any]) -> None:
    assert judged(EVIDENCE, name).measurements == measurements


@pytest.mark.parametrize(
    ("name", "thresholds"),
    [
        (
            "contract",
            {"canary_tolerance": 1e-5, "max_constant_input_share": 0.5, "hold_on_constant_window": True},
        ),
        ("action diversity", {"profile": "seed", "min_rows": 200, "max_action_share": 0.7, "min_action_share": 0.1}),
    ],
)
def test_the_limits_that_were_applied_are_stored(name: str, thresholds: dict[str, float]) -> None:
    assert judged(EVIDENCE, name).thresholds == thresholds


# ---------------------------------------------------------------- contract


def with_contract(**changes: Any) -> Evidence:
    return replace(GOOD, contract=replace(GOOD.contract, **changes))


@pytest.mark.parametrize(
    ("evidence", "result", "message"),
    [
        (
            with_contract(mismatches=("rows: 128", "label"), unknown="x", canary_max_error=None),
            GateOutcome.FAIL,
            "mismatches 2, required ≤ 0; rows: 128; label",
        ),
        (
            with_contract(canary_max_error=0.5, unknown="it cannot be read"),
            GateOutcome.FAIL,
            "canary error 5e-01, required ≤ 1e-05",
        ),
        (
            with_contract(constant_input_share=0.6, canary_max_error=None),
            GateOutcome.FAIL,
            "constant inputs 60 %, required ≤ 50 %",
        ),
        (
            with_contract(canary_max_error=None, constant_input_share=None, unknown="x"),
            GateOutcome.UNDECIDED,
            "the canary could not be replayed",
        ),
        (
            with_contract(constant_input_share=None, unknown="x"),
            GateOutcome.UNDECIDED,
            "no input window could be replayed through the serving preprocessor",
        ),
        (
            with_contract(is_engine_preset=True, constant_window_probability=None),
            GateOutcome.UNDECIDED,
            "its answer to a constant window is not a number",
        ),
        (
            with_contract(unknown="it cannot be read"),
            GateOutcome.UNDECIDED,
            "the engine's contract is unknown: it cannot be read; correct PATCHTST_MODEL_PATH, roll back, or name "
            'the contract that it is to run: retrain-worker promote RUN --accept-contract CONTRACT --reason "…"',
        ),
    ],
)
def test_the_contract_gate_says_what_is_wrong_or_not_known(
    evidence: Evidence, result: GateOutcome, message: str
) -> None:
    found = judged(evidence, "contract")

    assert (found.result, found.message) == (result, message)


def test_the_measurements_of_an_unknown_contract_are_stored() -> None:
    found = judged(with_contract(mismatches=("rows",), unknown="why", canary_max_error=None), "contract")

    assert found.measurements == {
        "num_mismatches": 1,
        "canary_max_error": None,
        "constant_input_share": 0.0,
        "constant_window_probability": None,
        "mismatches": ["rows"],
        "unknown": "why",
    }
    assert [check.name for check in found.checks] == ["num_mismatches", "constant_input_share"]
    unknown = judged(with_contract(unknown="why"), "contract")
    assert {check.name: check.value for check in unknown.checks}["num_mismatches"] is None


@pytest.mark.parametrize(
    ("probability", "is_engine_preset", "is_held", "result"),
    [
        (0.4, True, True, GateOutcome.PASS),
        (0.6, True, True, GateOutcome.PASS),
        (0.39, True, True, GateOutcome.FAIL),
        (0.61, True, True, GateOutcome.FAIL),
        (0.61, False, True, GateOutcome.PASS),
        (0.61, True, False, GateOutcome.PASS),
    ],
)
def test_a_model_of_the_engine_preset_has_no_opinion_of_a_constant_window(
    probability: float, is_engine_preset: bool, is_held: bool, result: GateOutcome
) -> None:
    evidence = with_contract(constant_window_probability=probability, is_engine_preset=is_engine_preset)
    policy = replace(POLICY, hold_on_constant_window=is_held)
    found = judged(evidence, "contract", policy)

    assert found.result is result
    assert constant_window_of(decide(evidence, policy).gates) == probability
    assert constant_window_of(decide(GOOD, policy).gates) is None
    is_checked = is_engine_preset and is_held
    assert (
        checks_of(found)[3:]
        == [
            f"{'met' if result is GateOutcome.PASS else 'not met'}: constant_window_probability: P(WIN) of a constant "
            f"window {probability:.3f}, required 0.400 to 0.600, drawn from 0 to 1"
        ]
        * is_checked
    )
    assert fault_of_file(found, policy) == ("" if result is GateOutcome.PASS else found.message)


# ---------------------------------------------------------------- other gates


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"BUY": 0.75, "SELL": 0.15, "HOLD": 0.1}, "most frequent action 75 %, required ≤ 70 %"),
        (
            {"BUY": 1.0},
            "most frequent action 100 %, required ≤ 70 %; second most frequent 0 %, required > 10 %",
        ),
        ({}, "second most frequent 0 %, required > 10 %"),
    ],
)
def test_actions_are_ranked_by_their_share(actions: dict[str, float], message: str) -> None:
    found = judged(with_card(actions=actions), "action diversity")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in sorted(actions.items()))

    assert found.message == message + (f"; {shares}" if shares else "")


def test_an_agreement_that_was_not_measured_has_no_rows() -> None:
    found = judged(with_card(agreement=None), "agreement")

    assert found.measurements == {"n": 0}
    assert found.checks == ()


def test_skill_without_backtest_folds_is_judged_on_the_holdout() -> None:
    found = judged(GOOD, "skill")

    assert checks_of(found) == [
        "met: auc_low: AUC, 99.9 % lower confidence bound 0.710, required > 0.500, drawn from 0.3 to 1",
        "met: log_loss_gain_low: log loss gain, 99 % lower confidence bound +0.080, required > +0.000, "
        "drawn from -0.15 to 0.15",
    ]
    assert found.measurements == {
        "n": 900,
        "auc": 0.78,
        "log_loss": 0.55,
        "log_loss_gain": 0.13,
        "num_blocks": 30,
        "auc_low": 0.71,
        "log_loss_gain_low": 0.08,
    }


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        (with_card(auc=None), "no AUC could be estimated"),
        (with_skill(), "no AUC could be estimated on the holdout"),
        (
            with_card(auc_low=None, log_loss_gain_low=None),
            "not measured: AUC, 99.9 % lower confidence bound; log loss gain, 99 % lower confidence bound (900 rows: "
            "too few of them or of one class, or a probability that is not a number)",
        ),
        (with_skill(n=199), "199 rows could be measured, 200 are required"),
    ],
)
def test_skill_that_could_not_be_measured_has_the_cause(evidence: Evidence, message: str) -> None:
    found = judged(evidence, "skill")

    assert (found.result, found.message) == (GateOutcome.UNDECIDED, message)
    assert (found.measurements["auc"], found.measurements["n"]) == (evidence.candidate.auc, evidence.candidate.n)


def test_all_backtest_folds_are_named_without_a_remainder() -> None:
    assert judged(with_skill(LUCKY, pool(3)), "skill").message.endswith(
        "pooled over 3000 rows of the holdout and 3 backtest folds"
    )


def test_the_largest_pool_decides_where_none_shows_skill() -> None:
    evidence = with_skill(LUCKY, pool(1, auc_low=0.49), pool(2, auc_low=0.47))

    assert "AUC, 99.99 % lower confidence bound 0.470" in judged(evidence, "skill").message


@pytest.mark.parametrize(
    ("evidence", "checks"),
    [
        (with_card(calibration_slope=0.8), 2),
        (with_card(calibration_slope_high=1.0), 2),
        (with_card(calibration_slope=0.8, calibration_slope_high=1.0), 3),
        (replace(EVIDENCE, skill=None), 3),
    ],
)
def test_a_calibration_slope_counts_where_it_has_a_bound(evidence: Evidence, checks: int) -> None:
    found = judged(evidence, "calibration")

    assert (len(found.checks), found.result) == (checks, GateOutcome.PASS)
    assert found.measurements["pooled_calibration_slope"] is None
    assert found.measurements["pooled_calibration_slope_high"] is None


def test_an_unknown_limit_of_the_ece_leaves_the_calibration_undecided() -> None:
    found = judged(with_card(ece_limit=None), "calibration")

    assert found.message == (
        "not measured: ECE (900 rows: too few of them or of one class, or a probability that is not a number)"
    )
    assert found.measurements["ece_limit"] is None


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"p_std": 0.01}, "confidence spread"),
        ({"actions": {"BUY": 1.0}}, "action diversity"),
        ({"monotonicity_z": 3.0}, "calibration"),
        ({"auc": 0.5}, "skill"),
        ({"log_loss_gain": 0.0}, "skill"),
        ({"p_std": 0.01, "auc": 0.4}, "confidence spread, skill"),
        ({"actions": {"BUY": 1.0}, "p_std": 0.01, "ece": 0.9}, "action diversity, confidence spread, calibration"),
    ],
)
def test_an_incumbent_that_fails_is_named_with_its_failures(changes: dict[str, Any], failed: str) -> None:
    found = judged(replace(GOOD, incumbent=replace(GOOD_CARD, **changes)), "incumbent")

    assert found.message == (
        f"the incumbent fails {failed}; the other gates decide (log loss gain, 95 % lower confidence bound -0.002)"
    )
    assert (found.result, found.checks) == (GateOutcome.PASS, ())
    assert found.measurements == asdict(known(GOOD.comparison))


@pytest.mark.parametrize(
    "changes", [{"auc": None, "log_loss_gain": 0.0}, {"auc": 0.4, "log_loss_gain": None}, {"n": 10, "p_std": 0.01}]
)
def test_an_incumbent_that_could_not_be_measured_is_compared_with(changes: dict[str, Any]) -> None:
    assert judged(replace(GOOD, incumbent=replace(GOOD_CARD, **changes)), "incumbent").checks != ()


def test_an_incumbent_without_a_comparison_leaves_the_gate_undecided_or_is_not_known() -> None:
    unpaired = judged(replace(GOOD, comparison=None), "incumbent")
    assert (unpaired.message, unpaired.measurements) == (
        "0 rows could be measured, 200 are required",
        {"n": 0, "log_loss_gain_low": None, "log_loss_gain": None},
    )
    useless = judged(replace(GOOD, comparison=None, incumbent=replace(GOOD_CARD, p_std=0.0)), "incumbent")
    assert useless.message == (
        "the incumbent fails confidence spread; the other gates decide (log loss gain, 95 % lower confidence bound —)"
    )
    absent = judged(replace(GOOD, incumbent=None, incumbent_absence="it cannot be read"), "incumbent")
    assert absent.message == "no incumbent to compare with: it cannot be read; the other gates decide"
    assert absent.measurements == asdict(known(GOOD.comparison))


def part(name: str, **changes: Any) -> Slice:
    return replace(GOOD_CARD.slices[0], **{"name": name, "n": 50, "actions": {"BUY": 0.5}, **changes})


def test_stability_shows_the_slice_that_is_furthest_off_for_each_check() -> None:
    slices = (
        part("A", auc=0.6, auc_high=0.9, auc_lag_high=-0.4),
        part("B", auc=0.49, auc_high=0.8, auc_lag_high=0.2, actions={"SELL": 0.9, "BUY": 0.1}),
        part("C", auc=0.45, auc_high=0.7, auc_lag_high=0.3),
        part("D", auc=0.5, auc_high=0.75, auc_lag_high=-0.5),
        part("E", auc=None, auc_high=0.1, auc_lag_high=-0.9, actions={}),
        part("F", auc=0.4, auc_high=None, auc_lag_high=None),
        part("G", n=49, auc=0.1, auc_high=0.2, auc_lag_high=-0.8, actions={"BUY": 1.0}),
    )
    found = judged(with_card(slices=slices), "stability")

    assert checks_of(found) == [
        "met: slice_auc_high: AUC of C, 99.5 % upper confidence bound 0.700, required ≥ 0.500, drawn from 0 to 1",
        "met: slice_auc_lag_high: AUC of B minus that of the other rows, 99.5 % upper confidence bound +0.200, "
        "required ≥ +0.000, drawn from -0.5 to 0.5",
        "met: slice_action_share: one action in B 90 %, required < 100 %, drawn from 0 to 1",
    ]
    assert found.message.endswith("; 6 slices of at least 50 rows")
    assert found.measurements["slices"] == [asdict(each) for each in slices]


@pytest.mark.parametrize("slices", [(), (part("A", n=49),)])
def test_stability_needs_a_slice_with_enough_rows(slices: tuple[Slice, ...]) -> None:
    found = judged(with_card(slices=slices), "stability")

    assert (found.result, found.message) == (GateOutcome.UNDECIDED, "no symbol and no half has 50 rows")
    assert found.checks == ()


@pytest.mark.parametrize(
    ("slices", "result"),
    [
        ((part("A", auc=0.4, auc_high=0.5),), GateOutcome.PASS),
        ((part("A", auc=0.4, auc_high=0.499),), GateOutcome.FAIL),
        ((part("A", auc=0.4, auc_lag_high=0.0),), GateOutcome.PASS),
        ((part("A", auc=0.4, auc_lag_high=-0.001),), GateOutcome.FAIL),
        ((part("A", actions={"BUY": 0.999}),), GateOutcome.PASS),
        ((part("A", actions={"BUY": 1.0}),), GateOutcome.FAIL),
    ],
)
def test_stability_fails_beyond_its_limits(slices: tuple[Slice, ...], result: GateOutcome) -> None:
    assert judged(with_card(slices=slices), "stability").result is result


# ---------------------------------------------------------------- verdict and problems


def test_a_gate_on_exactly_enough_rows_is_decided() -> None:
    assert judged(with_card(n=200), "confidence spread").result is GateOutcome.PASS
    assert judged(with_card(n=199), "confidence spread").message == "199 rows could be measured, 200 are required"


def test_a_verdict_without_any_gate_that_counts_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrain_worker.domain.gates.decision.GATES", ())

    assert decide(GOOD, POLICY).decision is Decision.UNDECIDED


def test_a_gate_that_is_undecided_is_a_problem_of_its_own_kind() -> None:
    both = decide(replace(with_card(p_std=0.01), comparison=None), POLICY)

    assert both.decision is Decision.REFUSE
    assert both.problems == (
        Problem(
            kind=ProblemKind.GATE_FAILED,
            subject="confidence spread",
            cause="the probabilities hardly differ from row to row: std of P(WIN) 0.010, required ≥ 0.050",
        ),
        Problem(
            kind=ProblemKind.GATE_UNDECIDED,
            subject="incumbent",
            cause="0 rows could be measured, 200 are required",
        ),
    )
    assert both.reasons == tuple(problem.message for problem in both.problems)


def test_a_failed_gate_without_a_meaning_shows_what_was_measured() -> None:
    assert known(GateResult(name="x", result=GateOutcome.FAIL, counts=True, message="0.1").problem).cause == "0.1"


def test_bounds_are_labelled_with_their_side_and_level() -> None:
    assert upper_bound("AUC", 0.005) == "AUC, 99.5 % upper confidence bound"
    assert lower_bound("AUC", 0.5) == "AUC, 50 % lower confidence bound"
    assert lower_bound("AUC", 0.000123) == "AUC, 99.988 % lower confidence bound"


def test_an_error_of_this_program_is_the_problem_that_it_reports_and_any_other_is_a_defect() -> None:
    error = SlotError("is a directory", where="/etc/x.env", remedy="remove it")

    assert problem_of(error, kind=ProblemKind.SLOT) == Problem(
        kind=ProblemKind.SLOT, subject="/etc/x.env", cause="is a directory", action="remove it"
    )
    assert problem_of(KeyError("x"), kind=ProblemKind.SLOT) == Problem(
        kind=ProblemKind.DEFECT, subject="KeyError", cause="'x'"
    )
    assert problem_of(ValueError(), kind=ProblemKind.SLOT).cause == "no message"
