"""A new gate is one module and one entry in GATES: verdict, screen, page, JSON and documentation show it."""

import json
import re

import msgspec
import pytest

from retrain_worker.cli.screen import as_json
from retrain_worker.domain.gates import Check, Decision, Evidence, Gate, GatePolicy, GateResult, Measured, decide
from retrain_worker.domain.gates import decision as gates
from retrain_worker.report.result import as_object
from retrain_worker.report.run_summary import gates_table, summary
from tests import reference_pages
from tests.report_pages import page_of
from tests.screen_text import text_of
from tests.unit.test_report import evidence, refused


def measure(found: Evidence, _policy: GatePolicy) -> Measured:
    card = found.candidate
    return Measured(
        num_rows=card.n,
        checks=(Check(name="accuracy", label="accuracy", value=card.accuracy, low=0.9, format=".1%"),),
        detail="measured by a test",
    )


ACCURACY = Gate(
    name="accuracy",
    requirement="accuracy ≥ 0.9 on {min_rows} rows",
    failure="it is wrong too often",
    thresholds=("min_rows",),
    measure=measure,
)
REASON = "accuracy: it is wrong too often: accuracy 77.5 %, required ≥ 90.0 %; measured by a test"


@pytest.fixture(autouse=True)
def _with_the_new_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GATES", (*gates.GATES, ACCURACY))


def test_the_verdict_depends_on_it() -> None:
    verdict = decide(evidence(), GatePolicy())

    assert verdict.decision is Decision.REFUSE
    assert verdict.reasons == (REASON,)


def test_screen_and_page_show_what_is_measured_and_required_and_what_a_failure_means() -> None:
    result = refused(evidence())
    on_screen, on_page = text_of(summary(result)), page_of(result)

    assert re.search(r"✘ accuracy +accuracy 77\.5 % +≥ 90\.0 %", on_screen)
    assert REASON in re.sub(r"[\s│]+", " ", on_screen)
    assert REASON in on_page
    assert 'aria-label="accuracy 77.5 %, required ≥ 90.0 %"' in on_page
    assert "measured by a test" in text_of(gates_table(result.run.facts.gate.verdict.gates))


def test_json_holds_its_checks_and_its_thresholds_and_a_stored_verdict_is_read_again() -> None:
    *_, shown = json.loads(as_json(as_object(refused(evidence()))))["gates"]

    assert shown == {
        "name": "accuracy",
        "result": "FAIL",
        "counts": True,
        "message": "accuracy 77.5 %, required ≥ 90.0 %; measured by a test",
        "failure": "it is wrong too often",
        "checks": [
            {
                "name": "accuracy",
                "label": "accuracy",
                "value": 0.7755,
                "low": 0.9,
                "high": None,
                "is_strict": False,
                "format": ".1%",
                "scale": [0.0, 1.0],
                "is_met": False,
            }
        ],
        "measurements": {"n": 842, "accuracy": 0.7755},
        "thresholds": {"min_rows": 200},
    }
    assert msgspec.convert(shown, GateResult) == decide(evidence(), GatePolicy()).gates[-1]


def test_the_documentation_lists_it() -> None:
    assert (
        "| accuracy | accuracy ≥ 0.9 on 200 rows | it is wrong too often | GATE_MIN_ROWS=200 |"
        in reference_pages.gates()
    )
