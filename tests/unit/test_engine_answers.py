"""The engine's answers: read from an entry, counted, and judged at each limit."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from retrain_worker.domain.engine_answers import (
    KEPT,
    MATCH_MICROSECONDS,
    EngineAnswer,
    Finding,
    Tally,
    answer_in,
    judge,
    matches,
    with_advice,
)
from retrain_worker.domain.labels import Thresholds
from retrain_worker.domain.trial_evaluation import Answer
from retrain_worker.errors import MalformedError

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
MICROSECONDS = 1_768_015_800_000_000
OURS = {"action": " buy ", "confidence": 0.71, "shadow": True, "version": "patchtst_v20260110_033000", "sha256": "ab"}
ANSWER = EngineAnswer(
    at=MICROSECONDS,
    symbol="BTCUSDT",
    action="BUY",
    confidence=0.71,
    side="SELL",
    is_shadow=True,
    names=("patchtst_v20260110_033000", "ab"),
)


def entry(ours: object = OURS, **fields: Any) -> dict[str, Any]:
    return {"symbol": "BTCUSDT", "side": " sell ", "model_breakdown": {"xgb": {}, "patchtst": ours}, **fields}


@pytest.mark.parametrize(
    "fields",
    [
        entry(),
        entry(model_breakdown=json.dumps({"patchtst": OURS})),
        entry(model_breakdown={"patchtst": json.dumps(OURS)}),
    ],
)
def test_an_answer_is_read_from_objects_and_from_json_text(fields: dict[str, Any]) -> None:
    assert answer_in(fields, at=AT) == ANSWER


def test_each_name_of_the_model_is_kept_and_missing_fields_are_empty() -> None:
    assert answer_in(entry({**OURS, "action": "Sell"}), at=AT) == replace(ANSWER, action="SELL")
    ours = {"action": "HOLD", "confidence": 1, "model_version": 7, "model_path": "/m/a.pth", "version": ""}

    assert answer_in({"model_breakdown": {"patchtst": ours}}, at=AT) == EngineAnswer(
        at=MICROSECONDS, symbol="", action="HOLD", confidence=1.0, side="", is_shadow=False, names=("7", "/m/a.pth")
    )


@pytest.mark.parametrize("breakdown", [None, {}, {"xgb": {}}, {"patchtst": None}, "null", "{}"])
def test_an_entry_without_an_answer_of_the_model_has_none(breakdown: object) -> None:
    assert answer_in({"symbol": "BTCUSDT", "model_breakdown": breakdown}, at=AT) is None
    assert answer_in({"symbol": "BTCUSDT"}, at=AT) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (entry(model_breakdown="{"), "model_breakdown is not JSON"),
        (entry(model_breakdown="[" * 100_000), "model_breakdown is not JSON"),
        (entry(model_breakdown=[1]), "model_breakdown is not an object"),
        (entry("{"), "model_breakdown.patchtst is not JSON"),
        (entry(7), "model_breakdown.patchtst is not an object"),
        (entry("null"), "the action is ''"),
        (entry({"confidence": 0.7}), "the action is ''"),
        (entry({"action": "up" * 20, "confidence": 0.7}), f"the action is {'UP' * 10!r}"),
        (entry({"action": "BUY"}), "the confidence is not a number"),
        (entry({"action": "BUY", "confidence": "0.7"}), "the confidence is not a number"),
        (entry({"action": "BUY", "confidence": True}), "the confidence is not a number"),
        (entry({"action": ["BUY"], "confidence": 0.7}), "the action is not text"),
        (entry({**OURS, "version": "v\x1b"}), "the name of the model 'v\\x1b' holds characters that cannot be printed"),
    ],
)
def test_a_malformed_answer_is_rejected_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedError) as rejected:
        answer_in(fields, at=AT)
    assert str(rejected.value) == reason


@pytest.mark.parametrize(
    ("mark", "is_shadow"),
    [
        *((mark, True) for mark in (True, "true", " TRUE ", "1", 1, "yes")),
        *((mark, False) for mark in (False, "false", "no", None, 0, "")),
    ],
)
def test_an_answer_is_in_shadow_mode_only_when_it_is_marked_so(mark: object, is_shadow: bool) -> None:
    assert answer_in(entry({**OURS, "shadow": mark}), at=AT) == replace(ANSWER, is_shadow=is_shadow)


@pytest.mark.parametrize(
    ("confidence", "is_fallback"),
    [(0.0, False), (1.0, False), (0.499, False), (0.5, True), (-0.001, True), (1.001, True), (math.nan, True)],
)
def test_one_half_and_what_is_no_probability_are_fallbacks(confidence: float, is_fallback: bool) -> None:
    assert replace(ANSWER, confidence=confidence).is_fallback is is_fallback


# ---------------------------------------------------------------- counts


def test_each_entry_is_counted_for_what_it_holds() -> None:
    buy, sell = replace(ANSWER, side="BUY"), replace(ANSWER, action="SELL", side="BUY", is_shadow=False)
    fallback = replace(ANSWER, action="HOLD", side="HOLD", confidence=0.5)
    tally = Tally(model_path="/m/a.pth", since="2026-01-10")
    for found in (buy, buy, sell, fallback, None):
        tally = tally.with_entry(found)
    tally = tally.with_malformed().with_malformed()

    assert tally == Tally(
        model_path="/m/a.pth",
        since="2026-01-10",
        entries=7,
        malformed=2,
        silent=1,
        answers=4,
        fallbacks=1,
        agreed=3,
        live=1,
        newest=(buy, buy, sell),
        counts={"BUY": 2, "SELL": 1, "HOLD": 1},
    )


def test_only_the_newest_answers_are_kept() -> None:
    tally = Tally()
    for number in range(KEPT + 2):
        tally = tally.with_entry(replace(ANSWER, at=number))

    assert [one.at for one in tally.newest] == list(range(2, KEPT + 2))


# ---------------------------------------------------------------- findings


def varied(count: int, **changes: Any) -> tuple[EngineAnswer, ...]:
    """Answers a minute apart, whose confidences differ by more than the tolerance of a match."""
    return tuple(
        replace(ANSWER, at=number * 60_000_000, confidence=(0.65, 0.75, 0.85)[number % 3], **changes)
        for number in range(count)
    )


def tally_of(*newest: EngineAnswer, **changes: Any) -> Tally:
    tally = Tally()
    for one in newest:
        tally = tally.with_entry(one)
    return replace(tally, **changes)


def found_in(tally: Tally, *, model_std: float | None = 0.2, answers: Sequence[Answer] = ()) -> Finding:
    return judge(tally, answers=answers, model_std=model_std, thresholds=Thresholds())


def of_the_model(answers: Sequence[EngineAnswer], *, num_other: int = 0) -> list[Answer]:
    """The model's answers to the same rows; the first `num_other` are others."""
    return [
        Answer(symbol=one.symbol, decided_at=one.at, probability=0.1 if number < num_other else one.confidence)
        for number, one in enumerate(answers)
    ]


def test_fewer_than_fifty_answers_are_not_judged() -> None:
    constant = (ANSWER,) * 49

    assert found_in(tally_of(*constant)) == Finding(message="49 engine answers, 50 required to judge them")
    assert found_in(tally_of(*constant, ANSWER)).is_fault


def test_an_engine_that_answers_by_its_fallback_is_a_serving_fault() -> None:
    fallback = replace(ANSWER, confidence=0.5)

    assert found_in(tally_of(*varied(24), *[fallback] * 30)) == Finding(
        is_fault=True,
        is_constant=True,
        message="serving fault: 30 of 54 engine answers are fallbacks (0.5, or no probability)",
    )
    assert not found_in(tally_of(*varied(25), *[fallback] * 29)).is_fault


def test_the_newest_of_the_constant_answers_is_shown() -> None:
    newest = replace(ANSWER, confidence=0.7103)

    assert found_in(tally_of(*[ANSWER] * 49, newest), model_std=None).message == (
        "serving fault: the last 50 engine answers are all BUY 0.7103"
    )


@pytest.mark.parametrize(
    ("model_std", "finding"),
    [
        (
            0.02,
            Finding(
                is_fault=True,
                is_constant=True,
                message="serving fault: the last 50 engine answers are all BUY 0.7100, but the model's vary "
                "(standard deviation 0.020)",
            ),
        ),
        (0.0199, Finding(message="the last 50 engine answers are all BUY 0.7100, as the model's are")),
        (
            None,
            Finding(
                is_fault=True, is_constant=True, message="serving fault: the last 50 engine answers are all BUY 0.7100"
            ),
        ),
    ],
)
def test_constant_answers_are_a_serving_fault_unless_the_model_is_constant(
    model_std: float | None, finding: Finding
) -> None:
    assert found_in(tally_of(*[ANSWER] * 50), model_std=model_std) == finding


@pytest.mark.parametrize(
    ("last", "is_fault"),
    [
        (replace(ANSWER, confidence=0.71 + 0.0019), True),
        (replace(ANSWER, confidence=0.71 - 0.0021), False),
        (replace(ANSWER, action="HOLD"), False),
    ],
)
def test_answers_are_constant_below_a_standard_deviation_of_a_thousandth_and_with_one_action(
    last: EngineAnswer, is_fault: bool
) -> None:
    # half of the answers differ by twice the standard deviation
    assert found_in(tally_of(*[ANSWER] * 25, *[last] * 25)).is_fault is is_fault


def test_answers_that_are_not_those_of_the_model_are_a_serving_fault() -> None:
    engine = varied(50)

    assert found_in(tally_of(*engine), answers=of_the_model(engine[:20], num_other=5)) == Finding(
        is_fault=True,
        message="serving fault: 15 of 20 matched engine answers are the model's; the engine runs another model, "
        "or prepares its input differently",
    )
    for enough in (of_the_model(engine[:20], num_other=4), of_the_model(engine[:19], num_other=19)):
        assert not found_in(tally_of(*engine), answers=enough).is_fault


def test_answers_without_a_fault_are_summarised() -> None:
    engine = (*varied(30, action="SELL", symbol="ETHUSDT"), *varied(30))

    assert found_in(tally_of(*engine)) == Finding(message="60 engine answers, BUY 50%, SELL 50%, 50% as the ensemble")
    assert found_in(tally_of(*engine), answers=of_the_model(engine[30:], num_other=1)).message == (
        "60 engine answers, BUY 50%, SELL 50%, 50% as the ensemble; 29 of 30 matched answers are the model's"
    )


def test_one_matched_answer_is_part_of_the_summary() -> None:
    engine = varied(50)

    assert found_in(tally_of(*engine), answers=of_the_model(engine[:1])).message == (
        "50 engine answers, BUY 100%, 0% as the ensemble; 1 of 1 matched answers are the model's"
    )


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], (0, 0)),
        ([Answer(symbol="ETHUSDT", decided_at=MICROSECONDS, probability=0.71)], (0, 0)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS + MATCH_MICROSECONDS, probability=0.71)], (1, 1)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS - MATCH_MICROSECONDS, probability=0.71)], (1, 1)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS + MATCH_MICROSECONDS + 1, probability=0.71)], (0, 0)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS - MATCH_MICROSECONDS - 1, probability=0.71)], (0, 0)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS, probability=0.729)], (1, 1)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS, probability=0.691)], (1, 1)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS, probability=0.731)], (0, 1)),
        ([Answer(symbol="BTCUSDT", decided_at=MICROSECONDS, probability=0.689)], (0, 1)),
        # the nearest row counts, of both sides
        (
            [
                Answer(symbol="BTCUSDT", decided_at=MICROSECONDS - 2_000_000, probability=0.9),
                Answer(symbol="BTCUSDT", decided_at=MICROSECONDS + 1_000_000, probability=0.71),
                Answer(symbol="BTCUSDT", decided_at=MICROSECONDS + 3_000_000, probability=0.9),
            ],
            (1, 1),
        ),
    ],
)
def test_an_answer_is_compared_with_the_nearest_row_of_its_symbol(
    answers: list[Answer], expected: tuple[int, int]
) -> None:
    assert matches([ANSWER], answers, Thresholds()) == expected


def test_the_confidence_may_be_that_of_the_action_but_the_action_is_the_models() -> None:
    sold = replace(ANSWER, action="SELL", confidence=0.8)
    row = Answer(symbol="BTCUSDT", decided_at=MICROSECONDS, probability=0.2)
    sure = replace(row, probability=0.0)
    assert matches([replace(sold, confidence=0.02)], [sure], Thresholds()) == (1, 1), "exactly at the tolerance"

    assert matches([sold], [row], Thresholds()) == (1, 1)
    assert matches([replace(sold, action="BUY")], [row], Thresholds()) == (0, 1)
    assert matches([sold], [replace(row, probability=0.3)], Thresholds()) == (0, 1)


def test_each_answer_is_counted_once_and_one_without_a_row_does_not_end_the_count() -> None:
    unknown = replace(ANSWER, symbol="XRPUSDT")
    row = Answer(symbol="BTCUSDT", decided_at=MICROSECONDS, probability=0.71)

    assert matches([ANSWER, unknown, ANSWER], [row], Thresholds()) == (2, 2)


@pytest.mark.parametrize(("constant_window", "is_named"), [(0.7102, True), (0.2902, True), (0.5, False), (None, False)])
def test_constant_answers_come_with_what_helps(constant_window: float | None, is_named: bool) -> None:
    tally = Tally(answers=60, newest=(ANSWER,))
    constant = with_advice(Finding(message="constant", is_constant=True), tally, constant_window=constant_window)

    assert "no promotion helps until the engine's windows vary" in constant.message
    assert ("the model's P(WIN) of a window that repeats one row" in constant.message) is is_named
    varying = Finding(message="they vary")
    assert with_advice(varying, tally, constant_window=constant_window) is varying
