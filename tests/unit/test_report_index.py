"""The index: how long each model has served, what refused, and a page that stays small with a thousand runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from retrain_worker.domain.gates import GateOutcome
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Stage
from retrain_worker.domain.report_request import IndexPage
from retrain_worker.report.indexed_run import indexed, is_judged
from retrain_worker.worker.report.index_page import index_page, served
from tests.known import known
from tests.run_facts import forced_gate_facts
from tests.unit.test_report import HOSTILE, promoted, refused, weak

AT = datetime(2026, 1, 10, tzinfo=UTC)


def deployment(day: int, version: str, *, kind: DeploymentKind = DeploymentKind.PROMOTE) -> Deployment:
    at = AT + timedelta(days=day)
    return Deployment(
        deployment_id=f"{kind}_{day}",
        run_id=None,
        kind=kind,
        version=version,
        model_path=f"/m/{version}.pth" if version else "",
        sha256="a" * 64,
        size_bytes=1,
        previous_version=None,
        previous_model_path=None,
        state=DeploymentState.CONFIRMED,
        created_at=at,
        updated_at=at,
        requested_by="once",
        reason="",
    )


def test_a_model_serves_until_the_next_change_of_the_slot_and_again_after_it_returns() -> None:
    found = served(
        [
            deployment(0, "a"),
            deployment(2, "b"),
            deployment(5, "a", kind=DeploymentKind.ROLLBACK),
            deployment(6, "", kind=DeploymentKind.EXTERNAL),
            deployment(8, "c"),
        ],
        until=AT + timedelta(days=9, hours=12),
    )

    assert [(each.version, each.days, each.is_current) for each in found] == [
        ("a", 2.0, False),
        ("b", 3.0, False),
        ("a", 1.0, False),
        ("c", 1.5, True),
    ]


def test_a_refusal_counts_for_each_gate_that_counts() -> None:
    lines = [indexed(refused(weak(gate)).run, has_page=True, has_comparison=False) for gate in ("skill", "agreement")]

    assert lines[0].failed_gates == ("skill",)
    assert lines[1].failed_gates == (), "advisory"
    assert indexed(promoted().run, has_page=True, has_comparison=False).failed_gates == ()


def test_a_gate_that_could_not_be_decided_counts_as_a_refusal() -> None:
    run = refused(weak("skill")).run
    gated = known(run.facts.gate)
    undecided = tuple(replace(gate, result=GateOutcome.UNDECIDED) for gate in gated.verdict.gates[:1])
    run = run.with_fact(replace(gated, verdict=replace(gated.verdict, gates=undecided)))

    assert indexed(run, has_page=True, has_comparison=False).failed_gates == (undecided[0].name,)


def test_a_forced_promotion_is_not_judged() -> None:
    run = promoted().run

    assert is_judged(run)
    assert not is_judged(run.with_fact(forced_gate_facts("20260109_033000")))


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_the_index_is_small_with_any_number_of_runs(number: int) -> None:
    outcomes = [Outcome.PROMOTED, Outcome.REFUSED, Outcome.ROLLED_BACK, Outcome.SKIPPED, None]
    line = indexed(promoted().run, has_page=True, has_comparison=True)
    runs = tuple(
        replace(
            line,
            run_id=f"{AT - timedelta(days=day):%Y%m%d_%H%M%S}",
            created_at=AT - timedelta(days=day),
            outcome=outcomes[day % 5],
            stage=Stage.GATE,
            reason=HOSTILE if day == 0 else "log loss gain, 99.95 % lower confidence bound -0.004, required > +0.000",
        )
        for day in range(number)
    )
    changes = tuple(deployment(-day, f"patchtst_v{day}") for day in range(number, 0, -2))
    text = index_page(IndexPage(runs=runs, deployments=changes, at=AT, output_path="/x/index.html"))

    assert len(text.encode()) < 1_000_000
    assert text.count("<tr class=") == number
    assert text.count("<script>") == 1
    assert text.count("<figure>") == (4 if number else 0)
