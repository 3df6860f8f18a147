"""The summary and the page: all of a run at a glance, whatever its outcome, and inert whatever a row says."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain import gates
from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.facts import AuditFacts, ForcedPromotion, GateFacts, PullFacts, RowCounts, RunFacts
from retrain_worker.domain.gates import (
    Agreement,
    Bucket,
    Comparison,
    ContractCheck,
    Evidence,
    GateOutcome,
    GatePolicy,
    PooledEstimate,
    Scorecard,
    Skill,
    Slice,
)
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.report_request import EngineTraffic, RunPage
from retrain_worker.report.formatting import count, duration, number, plain, share
from retrain_worker.report.result import RunResult
from retrain_worker.report.run_summary import gates_table, hit_rates, summary
from retrain_worker.worker.report import charts
from retrain_worker.worker.report.lineage import changed_settings
from retrain_worker.worker.report.run_page import write_run_page
from tests.known import known
from tests.report_pages import page_of
from tests.run_facts import promote_facts, train_facts
from tests.screen_text import text_of

AT = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
OLD = "/opt/quantum/ai_engine/models/patchtst_v20251201_000000.pth"
NEW = "/opt/quantum/ai_engine/models/patchtst_v20260110_033000.pth"
HOSTILE = "<script>alert('x')</script>\x1b[31m\n[red]&\u202e\"><img src=//evil>"


def card(**changes: Any) -> Scorecard:
    buckets = tuple(
        Bucket(
            low=i / 10,
            high=(i + 1) / 10,
            n=11 * i,
            mean_probability=i / 10 + 0.05 if i else None,
            hit_rate=i / 10 if i else None,
            hit_rate_low=i / 10 - 0.08 if i else None,
            hit_rate_high=i / 10 + 0.07 if i else None,
        )
        for i in range(10)
    )
    actions = {"BUY": 0.53, "SELL": 0.34, "HOLD": 0.13}
    return replace(
        Scorecard(
            n=842,
            num_win=471,
            num_blocks=20,
            auc=0.8203,
            auc_low=0.7627,
            log_loss=0.5176,
            prior_log_loss=0.6922,
            log_loss_gain=0.1745,
            log_loss_gain_low=0.0846,
            brier=0.1672,
            ece=0.0506,
            ece_limit=0.0673,
            accuracy=0.7755,
            precision=0.79,
            recall=0.82,
            f1_score=0.80,
            actions=actions,
            p_mean=0.58,
            p_std=0.302,
            p10_p90=0.780,
            buckets=buckets,
            monotonicity_z=1.6,
            agreement=Agreement(
                n=842, share=0.61, share_low=0.57, share_high=0.65, opposed=0.2, kappa=0.05, fallbacks=3
            ),
            slices=(Slice(name="ADAUSDT", n=174, auc=0.833, auc_high=0.939, actions=actions, p_std=0.2),),
        ),
        **changes,
    )


def evidence(**changes: Any) -> Evidence:
    return replace(
        Evidence(
            candidate=card(),
            contract=ContractCheck(mismatches=(), canary_max_error=1e-7, constant_input_share=0.0),
            incumbent=card(auc=0.6971),
            comparison=Comparison(n=842, auc_difference=0.12, log_loss_gain=0.09, log_loss_gain_low=0.04),
        ),
        **changes,
    )


WEAK = {
    "contract": evidence(contract=ContractCheck(mismatches=(), canary_max_error=1e-3, constant_input_share=0.0)),
    "action diversity": evidence(candidate=card(actions={"BUY": 0.95, "SELL": 0.05, "HOLD": 0.0})),
    "confidence spread": evidence(candidate=card(p_std=0.01, p10_p90=0.02)),
    "agreement": evidence(candidate=card(agreement=replace(known(card().agreement), share=0.2, opposed=0.6))),
    "calibration": evidence(candidate=card(ece=0.2)),
    "skill": evidence(candidate=card(auc_low=0.48)),
    "incumbent": evidence(comparison=replace(known(evidence().comparison), log_loss_gain_low=-0.3)),
    "stability": evidence(candidate=card(slices=(replace(card().slices[0], auc_high=0.4),))),
}


FINDING = Finding(name="rows", severity=Severity.OK, message="rows enough", measured=1.0, limit=0.5)


def run_with(found: Any = None, *, symbols: Any = None) -> tuple[Run, Any]:
    """A run that has come up to its verdict."""
    found = found or evidence()
    verdict = gates.decide(found, GatePolicy())
    run = Run(run_id="20260110_033000", requested_by="once", request_reason="asked for", created_at=AT, updated_at=AT)
    facts = RunFacts(
        pull=PullFacts(
            rows=RowCounts(
                loaded=6060,
                labelled=5988,
                win=3637,
                loss=2351,
                open=72,
                new_labelled=5988,
                quarantined={"features": 7},
                contradictions=12,
            ),
            symbols=symbols or {"ADAUSDT": 1164, "BTCUSDT": 1232},
            feature_names=("rsi", "ma_cross"),
            first_at=datetime.fromisoformat("2025-12-11T03:30:00+00:00"),
            last_at=datetime.fromisoformat("2026-01-10T03:30:00+00:00"),
            data_sha256="ab" * 32,
        ),
        audit=AuditFacts(
            findings=(
                FINDING,
                Finding(
                    name="labels",
                    severity=Severity.WARNING,
                    message="12 contradict",
                    measured=12.0,
                    limit=99.0,
                    examples=("id 1",),
                ),
            )
        ),
        train=train_facts(
            parts={
                "train": {"win": 2500, "loss": 1575},
                "train_balanced": {"win": 1575, "loss": 1575},
                "validation": {"win": 428, "loss": 276},
                "holdout": {"win": 471, "loss": 371},
            },
            left_out={"purged": 39},
            epochs=3,
            best_epoch=2,
            history=((1, 0.7, 0.65, 0.7), (2, 0.6, 0.52, 0.8), (3, 0.55, 0.53, 0.8)),
            incumbent_path=OLD,
            candidate_path="/data/quantum/models/runs/20260110_033000/candidate/patchtst_v20260110_033000.pth",
        ),
        gate=GateFacts(verdict=verdict, candidate=found.candidate, incumbent=found.incumbent),
    )
    return replace(run, facts=facts, seconds={"pull": 1.053, "train": 131.2}), verdict


def promoted(model_path: Any = NEW, **changes: Any) -> RunResult:
    run, _verdict = run_with(**changes)
    run = run.with_fact(
        promote_facts(
            model_path=model_path,
            sha256="cd" * 32,
            previous_model_path=OLD,
            event_id="1b470b43",
            confirmed=True,
            confirmation="demo-engine answered with it",
        )
    )
    return RunResult(run=replace(run, stage=Stage.PROMOTE).ended(Outcome.PROMOTED, at=AT + timedelta(minutes=2)))


def refused(found: Any) -> RunResult:
    run, verdict = run_with(found)
    return RunResult(run=replace(run, stage=Stage.GATE).ended(Outcome.REFUSED, *verdict.reasons, at=AT))


def weak(gate: str) -> Evidence:
    """Evidence on which this gate fails."""
    return WEAK[gate]


def bare(outcome: Any, *reasons: Any) -> RunResult:
    """A run that ended before it knew anything."""
    run = Run(run_id="20260110_033000", requested_by="schedule", request_reason="due", created_at=AT, updated_at=AT)
    return RunResult(run=replace(run, outcome=outcome, reasons=reasons))


EVERY_OUTCOME = [
    promoted(),
    *(refused(found) for found in WEAK.values()),
    *(bare(outcome, "because of this") for outcome in [*Outcome, None]),
]


# ---------------------------------------------------------------- the summary


def test_the_outcome_stands_first_with_one_sentence() -> None:
    lines = text_of(summary(promoted())).splitlines()

    assert "PROMOTED" in lines[1]
    assert "patchtst_v20260110_033000 is in the engine's slot; confirmed: demo-engine" in lines[2]


def test_a_promotion_shows_rows_classes_scores_slot_event_engine_and_files() -> None:
    result = replace(
        promoted(),
        engine={"patchtst_v20251201_000000": EngineTraffic(answered=1240, slowest_seconds=0.0214)},
        report=Path("/r/report.html"),
        bayes_auc=0.828,
        event={"type": "model.promoted", "id": "1b470b43"},
    )
    text = text_of(summary(result))

    assert "6,060 read · 5,988 labelled · 3,637 WIN · 2,351 LOSS" in text
    assert "7 features" in text
    assert re.search(r"training +2,500 +1,575 +61 %", text)
    assert re.search(r"training, balanced +1,575 +1,575 +50 %", text)
    assert re.search(r"AUC +0\.820 +0\.697 +0\.500 +0\.828", text)
    assert re.search(r"accuracy +0\.775 +0\.775 +0\.559 *\n", text)
    assert re.search(rf"before +{OLD}\n.*now +{NEW}\n", text)
    assert re.search(r"type +model\.promoted", text)
    assert re.search(r"patchtst_v20251201_000000 +1,240 +0 +21 ms", text)
    assert re.search(r"report +/r/report\.html", text)
    assert "total 2 min 12 s" in text


def test_every_gate_shows_its_measurement_beside_its_threshold() -> None:
    text = text_of(summary(promoted()))
    ece_limit = number(known(card().ece_limit) + GatePolicy().ece_tolerance)

    for name, measured, required in [
        ("contract", "mismatches 0", "≤ 0"),
        ("action diversity", "most frequent action 53 %", "≤ 75 %"),
        ("confidence spread", "std of P(WIN) 0.302", "≥ 0.050"),
        ("agreement (advisory)", "same action 61 %", "55 % to 85 %"),
        ("calibration", "ECE 0.051", f"≤ {ece_limit}"),
        ("skill", "AUC, 99.9 % lower confidence bound 0.763", "> 0.500"),
        ("incumbent", "log loss gain, 95 % lower confidence bound +0.040", "≥ -0.010"),
        ("stability", "AUC of ADAUSDT, 99.5 % upper confidence bound 0.939", "≥ 0.500"),
    ]:
        assert re.search(rf"✔ {re.escape(name)} +{re.escape(measured)} +{re.escape(required)}", text), name


@pytest.mark.parametrize("name", [name for name in WEAK if name != "agreement"])
def test_a_refusal_gives_its_reason_first_and_what_happens_next(name: Any) -> None:
    text = text_of(summary(refused(WEAK[name])))

    assert "✘ REFUSED" in text
    assert text.index(f"reason {name}: ") < text.index("next ") < text.index("Rows")
    assert "patchtst_v20251201_000000 keeps serving" in text
    assert re.search(rf"unchanged +{OLD}", text)
    assert re.search(rf"✘ {name}", text)


def test_a_candidate_that_a_pause_holds_is_not_called_a_lack_of_rows() -> None:
    run, _ = run_with()
    paused = replace(run, stage=Stage.PROMOTE).ended(Outcome.SKIPPED, "promotions are paused", at=run.updated_at)
    text = text_of(summary(RunResult(run=paused, report=None)))

    assert "is not promoted during a pause" in text
    assert "`retrain-worker resume` ends the pause" in text
    assert "too few" not in text


def test_an_undecided_gate_is_not_called_a_failure() -> None:
    text = text_of(summary(refused(evidence(candidate=card(n=50))))).replace("│", "")

    assert "skill: 50 rows could be measured, 200 are required" in " ".join(text.split())


@pytest.mark.parametrize("result", EVERY_OUTCOME, ids=lambda result: str(result.run.outcome))
def test_every_outcome_has_a_summary_of_100_columns_and_no_colour(result: Any) -> None:
    text = text_of(summary(result))

    assert str(result.run.outcome or "IN PROGRESS") in text.splitlines()[1]
    assert "\x1b" not in text
    assert all(len(line) <= 100 for line in text.splitlines() if "/" not in line)


def test_colour_comes_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    assert "\x1b[" in text_of(summary(promoted()), has_colour=True)


def test_a_path_is_never_broken() -> None:
    long = "/very" * 40 + "/patchtst_v20260110_033000.pth"

    assert any(line.endswith(long) for line in text_of(summary(promoted(model_path=long))).splitlines())


def test_foreign_text_cannot_command_the_terminal() -> None:
    run = replace(promoted(symbols={HOSTILE: 3}).run, reasons=(HOSTILE,), outcome=Outcome.REFUSED)
    text = text_of(summary(RunResult(run=run, event={HOSTILE: HOSTILE})))

    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]" in text.replace("\n", "")


def test_the_table_of_gates_has_each_check_and_what_else_their_messages_state_once() -> None:
    text = " ".join(text_of(gates_table(refused(WEAK["skill"]).run.facts.gate.verdict.gates)).split())

    assert text.count("lower confidence bound 0.480 > 0.500") == 1
    assert text.count("1 slices of at least 50 rows") == 1
    assert text_of(gates_table(())) == "the gates were not evaluated"


# ---------------------------------------------------------------- gates as numbers


def past(slope_high: float) -> Skill:
    pool = PooledEstimate(
        num_folds=1, n=1500, num_blocks=40, alpha=1e-3, auc=0.8, auc_low=0.76, log_loss_gain=0.1, log_loss_gain_low=0.05
    )
    return Skill(
        folds=(),
        pooled=(pool,),
        holdout_auc_low=0.75,
        calibration_slope=slope_high - 0.1,
        calibration_slope_high=slope_high,
    )


ON_THE_LINE = {
    "skill at its limit": evidence(candidate=card(auc_low=0.5)),
    "one bucket": evidence(candidate=card(monotonicity_z=None)),
    "second action at its limit": evidence(candidate=card(actions={"BUY": 0.6, "SELL": 0.1, "HOLD": 0.1})),
    "a slice with one action": evidence(candidate=card(slices=(replace(card().slices[0], actions={"BUY": 1.0}),))),
    "overconfident": evidence(skill=past(0.64), candidate=card(calibration_slope=0.7, calibration_slope_high=0.9)),
    "overconfident in the past only": evidence(
        skill=past(0.64), candidate=card(calibration_slope=0.9, calibration_slope_high=1.1)
    ),
    "no slope on the holdout": evidence(skill=past(0.64), candidate=card(calibration_slope=None)),
    "most frequent action at its limit": evidence(candidate=card(actions={"BUY": 0.7, "SELL": 0.3, "HOLD": 0.0})),
}


@pytest.mark.parametrize(
    "found", [evidence(), *WEAK.values(), *ON_THE_LINE.values()], ids=["sound", *WEAK, *ON_THE_LINE]
)
def test_the_numbers_of_a_gate_agree_with_its_result(found: Any) -> None:
    for gate in gates.decide(found, GatePolicy()).gates:
        assert gate.checks, gate.name
        assert all(check.is_met for check in gate.checks) == (gate.result is GateOutcome.PASS), gate.name


def test_the_hit_rate_of_each_bucket_is_shown_with_its_interval() -> None:
    title, *shown = text_of(hit_rates(card())).strip().splitlines()

    assert title == "Hit rate by P(WIN)"
    assert len(shown) == 1 + 10
    assert shown[1].split() == ["0.0", "to", "0.1", "0", "—", "—", "—"]
    assert shown[6].split() == ["0.5", "to", "0.6", "55", "55", "%", "50", "%", "42", "%", "to", "57", "%"]
    assert text_of(hit_rates(None)) == ""


def test_a_gate_without_checks_is_shown_by_its_message() -> None:
    alone = evidence(incumbent=None, comparison=None, incumbent_absence="no model is in service")

    assert "no incumbent to compare with: no model is in service" in " ".join(text_of(summary(refused(alone))).split())


# ---------------------------------------------------------------- the page


class Seen(HTMLParser):
    """The tags of a page, balanced or not, and its text."""

    void = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[Any] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: Any, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: Any, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: Any) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: Any) -> None:
        self.text += data


@pytest.mark.parametrize("result", EVERY_OUTCOME, ids=lambda result: str(result.run.outcome))
def test_every_outcome_has_a_page_that_is_whole_and_fetches_nothing(result: Any) -> None:
    text = page_of(result)
    seen = Seen(text)

    assert seen.open == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(seen.tags)
    assert not [name for name, _value in seen.attributes if name in {"src", "href"} or name.startswith("on")]
    assert all(value.startswith("#") for name, value in seen.attributes if name == "xlink:href")
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text
    assert ("http-equiv", "Content-Security-Policy") in seen.attributes


def test_the_page_shows_what_the_summary_shows_and_the_charts() -> None:
    seen = Seen(page_of(replace(promoted(), bayes_auc=0.828, event={"type": "model.promoted"})))

    for text in (
        "PROMOTED",
        OLD,
        NEW,
        "0.820",
        "0.697",
        "0.828",
        "canary error 1e-07",
        "required ≤ 1e-05",
        "2,500",
        "model.promoted",
        "12 contradict",
        "ADAUSDT",
    ):
        assert text in seen.text, text
    labels = [value for name, value in seen.attributes if name == "aria-label"]
    assert any(label.startswith("reliability diagram") for label in labels)
    assert any(label.startswith("training loss") for label in labels)
    assert sum("required" in label for label in labels) == 17
    assert "epoch 2 was kept" in seen.text
    assert all(str(11 * i) in seen.text for i in range(1, 10))
    assert re.search(r"accuracy\s*0\.775\s*0\.775\s*0\.559", seen.text)


def test_foreign_text_stays_text_on_the_page() -> None:
    run = promoted(symbols={HOSTILE: 3}).run
    gated, slices = run.facts.gate, run.facts.gate.candidate.slices
    first, *others = gated.verdict.gates
    checks = (replace(first.checks[0], label=HOSTILE), *first.checks[1:])
    gates = (replace(first, name=HOSTILE, message=HOSTILE, checks=checks), *others)
    candidate = replace(known(gated.candidate), slices=(replace(slices[0], name=HOSTILE), *slices[1:]))
    run = run.with_fact(replace(known(gated), verdict=replace(gated.verdict, gates=gates), candidate=candidate))
    run = run.with_fact(
        replace(known(run.facts.audit), findings=(replace(FINDING, message=HOSTILE, examples=(HOSTILE,)),))
    )
    run = replace(run, run_id=HOSTILE, reasons=(HOSTILE,), requested_by=HOSTILE, outcome=Outcome.REFUSED)
    text = page_of(RunResult(run=run, event={HOSTILE: HOSTILE}))
    seen = Seen(text)

    assert not {"script", "img"} & set(seen.tags)
    assert seen.text.count(plain(HOSTILE)) >= 9
    assert "\x1b" not in text


def promotion(*, confirmed: bool | None = True, findings: tuple[Finding, ...] = (), forced: bool = False) -> RunResult:
    run = promoted().run
    run = run.with_fact(replace(known(run.facts.promote), confirmed=confirmed))
    run = run.with_fact(replace(known(run.facts.audit), findings=findings))
    if forced:
        decision = ForcedPromotion(by="anna", reason="a test", of_run="20260109_033000")
        run = run.with_fact(replace(known(run.facts.gate), forced=decision))
    return RunResult(run=run)


STALE = Finding(name="time.staleness", severity=Severity.WARNING, message="the newest labelled row is 333 days old")


@pytest.mark.parametrize(
    ("result", "tone", "shown"),
    [
        (promotion(), "good", "confirmed"),
        (promotion(confirmed=None), "quiet", "without confirmation"),
        (promotion(confirmed=False), "warn", "not confirmed"),
        (promotion(findings=(STALE,)), "warn", "333 days old"),
        (promotion(forced=True), "warn", "forced promotion by anna: a test"),
    ],
    ids=["confirmed", "not asked", "not confirmed", "stale", "forced"],
)
def test_only_a_confirmed_model_of_recent_rows_is_green_and_each_warning_is_at_the_top(
    result: RunResult, tone: str, shown: str
) -> None:
    header = page_of(result).partition("<main>")[0]

    assert f'<header class="verdict {tone}">' in header
    assert shown in header


def test_findings_that_are_fine_are_folded_and_the_others_are_not() -> None:
    folded = page_of(promoted()).partition("<details><summary>Audit: 1 fine")

    assert folded[1]
    assert "12 contradict" in folded[0].partition("Audit: 1 to check")[2]


def test_settings_that_differ_from_their_defaults_are_listed() -> None:
    run = promoted().run
    gated = known(run.facts.gate)
    changed = replace(gated.verdict, policy=GatePolicy(min_std=0.01).spending(1e-5))

    assert changed_settings(run) == ["none"]
    assert changed_settings(run.with_fact(replace(gated, verdict=changed))) == ["min_std 0.01 (default 0.05)"]


def test_a_run_without_stored_predictions_says_what_is_left_out(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    write_run_page(RunPage(run=promoted().run, run_dir=str(tmp_path), output_path=str(output), is_in_site=True))

    assert "AUC by symbol and by fold" in Seen(output.read_text()).text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_chart_that_cannot_be_drawn_is_named_and_the_page_has_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "learning", lambda _trained: 1 / 0)
    text = Seen(page_of(promoted())).text

    assert "A chart could not be drawn: ZeroDivisionError" in text
    assert "Reliability" in text


# ---------------------------------------------------------------- words


def test_numbers_are_formatted_with_their_units() -> None:
    assert [number(0.82034), count(6060), share(0.534)] == ["0.820", "6,060", "53 %"]
    assert [number(None), count(None), share(float("nan")), duration(None), number(True)] == ["—"] * 5
    assert [duration(seconds) for seconds in (0.0214, 0.9999, 9.94, 12.3, 119.7)] == [
        "21 ms",
        "1.0 s",
        "9.9 s",
        "12 s",
        "2 min 0 s",
    ]


def test_text_from_outside_becomes_one_line_of_limited_length() -> None:
    assert plain("a\nb\tc\x1b[0m") == "a\\nb\\tc\\x1b[0m"
    assert len(plain("x" * 10_000)) == 4_096
