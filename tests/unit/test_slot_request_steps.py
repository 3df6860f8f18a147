"""A slot request exactly: what is stored at each step, the answers that the requester reads, and external changes."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.deployments import (
    Target,
    is_confirmed,
    known_version,
    known_versions,
    promotion_of,
    roll_back_target,
)
from retrain_worker.domain.events import EventType
from retrain_worker.domain.facts import ForcedPromotion, PromoteFacts, RunFacts
from retrain_worker.domain.gates import GatePolicy, decide
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState, Outcome, Run, Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.slot_request import SlotRequest, SlotRequestArguments, SlotRequestKind, SlotRequestState
from retrain_worker.domain.worker_protocol import Broken, Done, OneOffTask, VerifyRequest, VerifyResult, Working
from retrain_worker.errors import ArtifactError, DiskFullError, SlotError
from retrain_worker.stages import external_change
from retrain_worker.stages.slot_requests import SlotRequestStep, abandon, carry_out, rollback_request_of
from tests.fakes import NOW, FakeConfirmations, FakeContext, FakeSlot, FakeWorkers, fake_context
from tests.known import known
from tests.run_facts import gate_facts, probation_facts, train_facts
from tests.unit.test_gates import GOOD, with_card

A, B, C = (Path(f"/engine/patchtst_v2026010{day}_000000.pth") for day in (1, 2, 3))
OTHER = Path("/engine/by_hand.pth")
REQUEST_ID = "rollback_20260110_033000"


def deployed(model: Path | None, before: Path | None, **changes: Any) -> Deployment:
    usual: dict[str, Any] = {
        "deployment_id": f"{model}<{before}",
        "run_id": None,
        "kind": DeploymentKind.PROMOTE,
        "version": model.stem if model else "none",
        "model_path": str(model) if model else "",
        "sha256": sha256_of(model) if model else "",
        "size_bytes": 1,
        "previous_version": before.stem if before else None,
        "previous_model_path": str(before) if before else None,
        "previous_sha256": sha256_of(before) if before else None,
        "state": DeploymentState.CONFIRMED,
        "created_at": NOW,
        "updated_at": NOW,
        "requested_by": "schedule",
        "reason": "test",
    }
    return Deployment(**{**usual, **changes})


def sha256_of(model: Path) -> str:
    return {A: "a", B: "b", C: "c"}.get(model, "0") * 64


def target_of(model: Path, **changes: Any) -> Target:
    return replace(Target(version=model.stem, model_path=str(model), sha256=sha256_of(model)), **changes)


@dataclass
class RecordedVerifier(FakeWorkers):
    """Keeps the folder of each request as well."""

    folders: list[Path] = field(default_factory=list)

    def result_of(self, stage: str, run_dir: Path, request: Any) -> Any:
        self.folders.append(run_dir)
        return super().result_of(stage, run_dir, request)


def sound(request: Any) -> Done:
    return Done(result=VerifyResult(sha256=request.expected_sha256, canary_error=2.6e-7))


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    """The slot named A, then B, then C, which is the model of a run."""
    context = fake_context(
        tmp_path,
        slot=FakeSlot(named=C, hashes={str(model): sha256_of(model) for model in (A, B, C)}),
        verifier=RecordedVerifier(answers={OneOffTask.VERIFY: sound}),
    )
    context.store.record_deployment(deployed(B, A))
    context.store.record(promoted_run(), deployment=deployed(C, B, deployment_id="20260103_000000", run_id=RUN_ID))
    return replace(context, policies=replace(context.policies, worker_memory_bytes=7))


RUN_ID = "20260103_000000"


def promoted_run() -> Run:
    run = Run(
        run_id=RUN_ID, requested_by="once", request_reason="", created_at=NOW, updated_at=NOW, stage=Stage.PROMOTE
    )
    run = run.with_fact(train_facts()).with_fact(gate_facts())
    run = run.with_fact(PromoteFacts(version=C.stem, model_path=str(C), sha256=sha256_of(C)))
    return run.ended(Outcome.PROMOTED, "seen serving", at=NOW)


def a_request(request_id: str = REQUEST_ID, **arguments: Any) -> SlotRequest:
    return SlotRequest(
        request_id=request_id,
        kind=SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(**arguments),
        requested_by="ada",
        reason="it loses",
        created_at=NOW,
        updated_at=NOW,
    )


def steps(context: FakeContext, request: SlotRequest, *, limit: int = 9) -> list[SlotRequestStep]:
    """Each step of the request, ten seconds apart, until it is answered."""
    found: list[SlotRequestStep] = []
    while not request.is_answered and len(found) < limit:
        context.now.forward(10)
        found.append(carry_out(request, context))
        request = found[-1].request
    return found


def test_each_step_of_a_rollback_is_reported_and_stored(context: FakeContext, tmp_path: Path) -> None:
    found = steps(context, a_request())

    assert [step.message for step in found] == [
        f"{REQUEST_ID}: {B.stem} verified: canary within 3e-07",
        f"{REQUEST_ID}: PATCHTST_MODEL_PATH names {B.stem}",
        f"{REQUEST_ID}: engine restart requested for {B.stem}",
        f"{REQUEST_ID} DONE: PATCHTST_MODEL_PATH names {B.stem} (was {C.stem}); follower engine-1 answered with it",
    ]
    assert all(step.is_move for step in found)
    assert [step.request.updated_at - NOW for step in found] == [timedelta(seconds=10 * n) for n in (1, 2, 3, 4)]
    assert [step.request.answer for step in found] == [
        step.message.removeprefix(f"{REQUEST_ID}: ").removeprefix(f"{REQUEST_ID} DONE: ") for step in found
    ]
    assert found[-1].request == replace(
        a_request(),
        state=SlotRequestState.DONE,
        answer=found[-1].request.answer,
        updated_at=NOW + timedelta(seconds=40),
    )
    assert context.store.request(REQUEST_ID) == found[-1].request
    assert context.verifier.requests == [
        (
            OneOffTask.VERIFY,
            VerifyRequest(request_id=REQUEST_ID, model_path=str(B), expected_sha256=sha256_of(B), memory_limit_bytes=7),
        )
    ]
    assert isinstance(context.verifier, RecordedVerifier)
    assert context.verifier.folders == [tmp_path / "runs/slot_requests" / REQUEST_ID]
    assert not (tmp_path / "runs/slot_requests").exists(), "removed with the answer"


def test_a_rollback_is_stored_with_its_requester_and_the_run_that_it_ends(context: FakeContext) -> None:
    found = steps(context, a_request())

    assert (
        found[-1].deployment
        == context.store.known_deployment(REQUEST_ID)
        == deployed(
            B,
            C,
            deployment_id=REQUEST_ID,
            run_id=RUN_ID,
            kind=DeploymentKind.ROLLBACK,
            created_at=NOW + timedelta(seconds=10),
            updated_at=NOW + timedelta(seconds=40),
            requested_by="ada",
            reason="it loses",
            confirmation="follower engine-1 answered with it",
        )
    )
    assert [len(step.events) for step in found] == [0, 1, 0, 0]
    (event,) = found[1].events
    assert (event.event_type, event.timestamp) == (EventType.ROLLED_BACK, NOW + timedelta(seconds=20))
    assert (event.payload["shadow_only"], event.payload["evidence"]) == (True, None)
    ended = context.store.known_run(RUN_ID)
    assert found[1].run == ended
    assert (ended.outcome, ended.finished_at) == (Outcome.ROLLED_BACK, NOW)
    assert ended.reasons == ("rolled back by ada: it loses", "when it was promoted: seen serving")
    assert ended.updated_at == NOW + timedelta(seconds=20)


def test_the_event_of_a_rollback_has_the_evidence_of_the_probation_and_the_mode_of_the_engine(
    context: FakeContext,
) -> None:
    run = replace(promoted_run(), stage=Stage.PROBATION).with_fact(probation_facts(rollback_reason="worse"))
    context.store.record(run)
    context.slot.shadow_only = False
    allowed = replace(context, policies=replace(context.policies, allow_live_swap=True))
    (event,) = steps(allowed, a_request())[1].events

    assert (event.payload["shadow_only"], event.payload["evidence"]["reason"]) == (False, "worse")


def test_a_rollback_goes_past_a_blocked_model(context: FakeContext) -> None:
    run = replace(promoted_run(), run_id="20260102_000000", stage=Stage.PROBATION)
    blocking = run.with_fact(probation_facts(rollback_reason="worse"))
    context.store.record(blocking, deployment=deployed(B, A, deployment_id=run.run_id, run_id=run.run_id))
    context.store.record_deployment(deployed(C, B, deployment_id="again"))

    assert carry_out(a_request(), context).deployment.version == A.stem


@pytest.mark.parametrize(("aliases", "types"), [(True, 2), (False, 1)])
def test_a_rollback_is_published_under_its_other_names_where_that_is_set(
    context: FakeContext, aliases: bool, types: int
) -> None:
    step = steps(replace(context, policies=replace(context.policies, event_aliases=aliases)), a_request())[1]

    assert [event.event_type for event in step.events] == [
        EventType.ROLLED_BACK,
        EventType.ROLLBACK_INITIATED,
    ][:types]


def test_a_rollback_of_a_model_of_another_origin_ends_no_run(context: FakeContext) -> None:
    context.store.record_deployment(deployed(OTHER, C, kind=DeploymentKind.EXTERNAL))
    context.slot.named = OTHER
    found = steps(context, a_request())

    assert (found[-1].deployment.run_id, found[1].run, context.slot.named) == (None, None, C)
    assert context.store.known_run(RUN_ID).outcome is Outcome.PROMOTED


def test_a_file_without_a_canary_is_reported_as_such(context: FakeContext) -> None:
    context.verifier.answers[OneOffTask.VERIFY] = Done(result=VerifyResult(sha256=sha256_of(B), canary_error=None))

    assert carry_out(a_request(), context).message == f"{REQUEST_ID}: {B.stem} verified: no canary"


def test_each_step_that_empties_the_slot_is_reported(context: FakeContext) -> None:
    found = steps(context, a_request(to_none=True))

    assert [step.message for step in found] == [
        f"{REQUEST_ID}: {C.stem} leaves the slot",
        f"{REQUEST_ID}: PATCHTST_MODEL_PATH removed",
        f"{REQUEST_ID}: engine restart requested",
        f"{REQUEST_ID} DONE: PATCHTST_MODEL_PATH removed (was {C.stem}); engine restart requested",
    ]
    assert context.store.known_deployment(REQUEST_ID) == replace(
        deployed(None, C),
        deployment_id=REQUEST_ID,
        run_id=RUN_ID,
        kind=DeploymentKind.ROLLBACK,
        size_bytes=0,
        state=DeploymentState.NOT_ASKED,
        created_at=NOW + timedelta(seconds=10),
        updated_at=NOW + timedelta(seconds=40),
        requested_by="ada",
        reason="it loses",
        confirmation="the slot names no model",
    )
    assert context.verifier.requests == []
    assert context.store.known_run(RUN_ID).outcome is Outcome.ROLLED_BACK


def test_the_run_of_a_request_is_the_one_that_it_names(context: FakeContext) -> None:
    context.store.record(replace(promoted_run(), run_id="20260101_000000"))
    for number, arguments in enumerate(({}, {"to_none": True})):
        request = a_request(f"r{number}", run_id="20260101_000000", **arguments)
        assert carry_out(request, context).deployment.run_id == "20260101_000000"


def test_an_unconfirmed_rollback_is_done_and_says_so(context: FakeContext) -> None:
    unseen = replace(context, confirmations=FakeConfirmations(seen=None))
    found = steps(unseen, a_request(), limit=4)
    waiting = found[-1]
    assert waiting.message == f"{REQUEST_ID}: waiting for the engine to serve {B.stem}, 110 s left"
    assert waiting.is_move is False

    context.now.forward(120)
    ended = carry_out(waiting.request, unseen)
    assert ended.request.answer == (
        f"PATCHTST_MODEL_PATH names {B.stem} (was {C.stem}); "
        f"not confirmed: {B.stem} was not seen in service within 120 s (confirmation by event)"
    )
    assert ended.request.state is SlotRequestState.DONE


def test_a_rollback_into_an_empty_slot_replaces_nothing(context: FakeContext) -> None:
    context.store.record_deployment(deployed(None, C, kind=DeploymentKind.EXTERNAL))
    context.slot.named = None
    found = steps(context, a_request(version=B.stem))

    assert found[-1].request.answer == f"PATCHTST_MODEL_PATH names {B.stem}; follower engine-1 answered with it"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("named", "arguments", "answer"),
    [
        (
            C,
            {"only_from": str(OTHER)},
            f"PATCHTST_MODEL_PATH: names {C} now, no longer {OTHER}; "
            "see `retrain-worker deployments`, and request it again if it is still wanted",
        ),
        (
            None,
            {"only_from": str(C)},
            f"PATCHTST_MODEL_PATH: names nothing now, no longer {C}; "
            "see `retrain-worker deployments`, and request it again if it is still wanted",
        ),
        (C, {"version": C.stem}, f"PATCHTST_MODEL_PATH: {C.stem} is in the slot already"),
        (
            C,
            {"version": "patchtst_v9"},
            f"patchtst_v9 was never in the slot; known versions: {C.stem}, {B.stem}, {A.stem}",
        ),
        (
            C,
            {"unreadable": "it is no object"},
            "its stored arguments cannot be read: it is no object; request it again",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_cause(
    context: FakeContext, named: Path | None, arguments: dict[str, Any], answer: str
) -> None:
    context.slot.named = named
    (step,) = steps(context, a_request(**arguments))

    assert step.request.state is SlotRequestState.REFUSED
    assert step.request.answer == f"nothing was changed: {answer}"
    assert step.message == f"{REQUEST_ID} REFUSED: nothing was changed: {answer}"
    assert (step.is_move, step.deployment, context.slot.named) == (True, None, named)
    assert context.store.request(REQUEST_ID) == step.request


def test_a_promotion_whose_arguments_cannot_be_read_is_refused_as_well(context: FakeContext) -> None:
    request = replace(a_request(unreadable="it is no object", run_id=RUN_ID), kind=SlotRequestKind.PROMOTE)

    assert carry_out(request, context).request.answer == (
        "nothing was changed: its stored arguments cannot be read: it is no object; request it again"
    )


def test_an_unknown_version_is_refused_with_the_ten_newest(tmp_path: Path) -> None:
    context = fake_context(tmp_path, slot=FakeSlot(named=None))
    assert carry_out(a_request(version="x"), context).request.answer == (
        "nothing was changed: x was never in the slot; known versions: none"
    )
    models = [Path(f"/engine/m{number}.pth") for number in range(12)]
    for before, model in pairwise(models):
        context.store.record_deployment(deployed(model, before))
    context.slot.named = models[-1]
    known_models = ", ".join(f"m{number}" for number in range(11, 1, -1))

    assert carry_out(a_request("r2", version="x"), context).request.answer == (
        f"nothing was changed: x was never in the slot; known versions: {known_models}"
    )


def test_without_an_earlier_model_the_requester_is_told_what_else_there_is(tmp_path: Path) -> None:
    context = fake_context(tmp_path, slot=FakeSlot(named=A))
    context.store.record_deployment(deployed(A, None))
    assert carry_out(a_request(), context).request.answer == (
        "nothing was changed: no earlier model is known; name a version that `retrain-worker deployments` lists "
        "(`rollback VERSION`); `retrain-worker rollback --to-none` empties the slot"
    )
    context.store.record_deployment(deployed(None, A, kind=DeploymentKind.ROLLBACK))
    context.slot.named = None
    assert carry_out(a_request("r2"), context).request.answer == (
        "nothing was changed: no earlier model is known; name a version that `retrain-worker deployments` lists "
        "(`rollback VERSION`)"
    )
    assert carry_out(a_request("r3", to_none=True), context).request.answer == (
        "nothing was changed: PATCHTST_MODEL_PATH: names no model already"
    )


def test_an_external_change_is_recorded_before_a_rollback_looks_for_its_target(context: FakeContext) -> None:
    context.slot.named = OTHER
    step = carry_out(a_request(), context)

    assert step.message == f"{REQUEST_ID}: PATCHTST_MODEL_PATH was changed externally, which is recorded first"
    assert (step.is_move, step.request) == (False, a_request())


def test_a_verification_in_progress_is_reported_and_stores_nothing(context: FakeContext) -> None:
    context.verifier.answers[OneOffTask.VERIFY] = Working(message="loading")
    step = carry_out(a_request(), context)

    assert step.message == f"{REQUEST_ID}: {B.stem} is being verified"
    assert (step.is_move, context.store.slot_requests) == (False, [])


@pytest.mark.parametrize(
    ("verified", "answer"),
    [
        (Broken(error=ArtifactError("its canary differs")), "its canary differs"),
        (
            Done(result=VerifyResult(sha256="d" * 64, canary_error=None)),
            f"{B}: its sha256 is {'d' * 64}, expected {'b' * 64}",
        ),
    ],
)
def test_a_file_that_is_not_sound_never_returns(context: FakeContext, verified: Any, answer: str) -> None:
    context.verifier.answers[OneOffTask.VERIFY] = verified
    (step,) = steps(context, a_request())

    assert step.request.answer == f"nothing was changed: {answer}"


class Withdrawing(FakeSlot):
    """B is withdrawn, and returns when it is restored."""

    def located(self, model: Path) -> Path:
        return model if model in self.published else Path("/withdrawn") / model.name

    def check_ready(self, model: Path, *, expected_sha256: str | None) -> int:
        assert model in self.published
        return super().check_ready(model, expected_sha256=expected_sha256)

    def restore(self, model: Path, *, expected_sha256: str) -> None:
        assert (model, expected_sha256) == (B, sha256_of(B))
        self.published.append(model)


def test_a_model_that_is_not_signed_does_not_return_where_a_signature_is_required(context: FakeContext) -> None:
    asked: list[tuple[Path, str]] = []

    def refuse(model: Path, sha256: str) -> None:
        asked.append((model, sha256))
        raise ArtifactError("not signed", where=str(model))

    (step,) = steps(replace(context, check_signature=refuse), a_request())

    assert step.request.answer == f"nothing was changed: {B}: not signed"
    assert asked == [(B, sha256_of(B))]
    assert context.slot.named == C


def test_a_withdrawn_model_is_verified_where_it_is_and_restored(context: FakeContext) -> None:
    hashes: dict[str, str | None] = {str(B): sha256_of(B), str(C): sha256_of(C)}
    withdrawing = replace(context, slot=Withdrawing(named=C, hashes=hashes))
    step = carry_out(a_request(), withdrawing)

    assert context.verifier.requests[0][1].model_path == f"/withdrawn/{B.name}"
    assert (step.deployment.model_path, step.deployment.state) == (str(B), DeploymentState.INTENDED)


def test_a_changed_file_is_not_even_verified(context: FakeContext) -> None:
    context.slot.hashes[str(B)] = "d" * 64
    (step,) = steps(context, a_request())

    assert step.request.answer == f"nothing was changed: {B}: not what its hash says"
    assert context.verifier.requests == []


def test_the_hash_of_a_model_from_before_the_history_is_the_one_that_is_measured(context: FakeContext) -> None:
    context.store.record_deployment(deployed(OTHER, None, previous_model_path="/engine/old.pth", previous_version="o"))
    context.slot.named, context.slot.hashes["/engine/old.pth"] = OTHER, "e" * 64
    context.verifier.answers[OneOffTask.VERIFY] = Done(result=VerifyResult(sha256="e" * 64, canary_error=None))
    step = carry_out(a_request(), context)

    assert context.verifier.requests[0][1].expected_sha256 is None
    assert (step.deployment.version, step.deployment.sha256) == ("o", "e" * 64)


# ---------------------------------------------------------------- errors in the course of a request


def test_a_temporary_error_is_retried_after_a_growing_pause_and_then_given_up(context: FakeContext) -> None:
    request = steps(context, a_request(), limit=1)[0].request
    context.slot.fault = DiskFullError("no space")
    found = []
    for _ in range(4):
        step = carry_out(request, context)
        found.append(step.message)
        request = step.request
        if request.not_before:
            assert request.answer == step.message.removeprefix(f"{REQUEST_ID} ")
            context.now.now = request.not_before - timedelta(seconds=1)
            waiting = carry_out(request, context)
            assert (waiting.request, waiting.message, waiting.is_move) == (request, request.answer, False)
            context.now.forward(1)

    assert found == [
        f"{REQUEST_ID} tries again in 30 s: no space",
        f"{REQUEST_ID} tries again in 60 s: no space",
        f"{REQUEST_ID} tries again in 120 s: no space",
        f"{REQUEST_ID} REFUSED: nothing was changed: no space",
    ]
    assert (request.num_retries, context.now()) == (3, NOW + timedelta(seconds=10 + 210))
    undone = context.store.known_deployment(REQUEST_ID)
    assert (undone.state, undone.confirmation) == (DeploymentState.UNDONE, "no space")


def test_a_step_that_succeeds_ends_the_retries(context: FakeContext) -> None:
    request = replace(a_request(), num_retries=2, not_before=NOW)
    moved = carry_out(request, context).request

    assert (moved.num_retries, moved.not_before, moved.updated_at) == (0, None, NOW)


@pytest.mark.parametrize(
    ("named", "state", "answer"),
    [
        (C, SlotRequestState.REFUSED, "nothing was changed: the operator's word"),
        (B, SlotRequestState.FAILED, f"PATCHTST_MODEL_PATH names {B.stem}, but: the operator's word"),
    ],
)
def test_a_request_that_is_given_up_is_answered_by_what_the_line_names(
    context: FakeContext, named: Path, state: SlotRequestState, answer: str
) -> None:
    request = steps(context, a_request(), limit=1)[0].request
    context.slot.named = named
    step = abandon(request, "the operator's word", context)

    assert step.message == f"{REQUEST_ID} {state}: {answer}"
    assert (step.request.state, step.request.answer, step.is_move) == (state, answer, True)
    assert step.deployment == context.store.known_deployment(REQUEST_ID)
    assert step.deployment.confirmation == "the operator's word"
    assert len(step.events) == (named == B)
    assert (context.store.known_run(RUN_ID).outcome is Outcome.ROLLED_BACK) == (named == B)


def test_a_request_that_is_given_up_after_the_swap_is_announced_once(context: FakeContext) -> None:
    request = steps(context, a_request(to_none=True), limit=2)[-1].request
    step = abandon(request, "the trigger is a directory", context)

    assert step.request.answer == "PATCHTST_MODEL_PATH removed, but: the trigger is a directory"
    assert step.events == ()


def test_a_request_that_is_given_up_before_its_intent_changes_nothing(context: FakeContext) -> None:
    step = abandon(a_request(), "the operator's word", context)

    assert (step.request.answer, step.deployment) == ("nothing was changed: the operator's word", None)


def test_a_line_that_was_changed_during_the_request_is_kept(context: FakeContext) -> None:
    request = steps(context, a_request(), limit=1)[0].request
    context.slot.named = OTHER
    step = carry_out(request, context)

    assert step.request.answer == (
        f"nothing was changed: PATCHTST_MODEL_PATH was changed externally; it names {OTHER} now"
    )
    assert (step.request.state, step.deployment.state) == (SlotRequestState.REFUSED, DeploymentState.UNDONE)
    assert step.deployment == context.store.known_deployment(REQUEST_ID)


# ---------------------------------------------------------------- forced promotion

UNDECIDED = replace(GOOD, comparison=None)


def judged(context: FakeContext, evidence: Any = UNDECIDED, run_id: str = "20260104_000000") -> Run:
    """A stored run whose candidate was not promoted."""
    run = Run(run_id=run_id, requested_by="once", request_reason="", created_at=NOW, updated_at=NOW, stage=Stage.GATE)
    run = run.with_fact(train_facts(candidate_path="/runs/x.pth", sha256="e" * 64))
    spending = AlphaSpending(alpha=0.001, left=0.009, num_decisions=1, at=NOW, since=NOW)
    gated = gate_facts(verdict=decide(evidence, GatePolicy()), alpha_spending=spending)
    run = run.with_fact(gated).ended(Outcome.REFUSED, "x", at=NOW)
    context.store.record(run)
    context.slot.hashes["/runs/x.pth"] = "e" * 64
    return run


def a_promotion(run_id: str | None = "20260104_000000", **arguments: Any) -> SlotRequest:
    return replace(
        a_request("promote_1", run_id=run_id, is_forced=True, **arguments),
        kind=SlotRequestKind.PROMOTE,
        requested_by="anna",
        reason="fees",
    )


def test_a_forced_promotion_opens_a_run_at_the_promotion(context: FakeContext) -> None:
    run = judged(context)
    context.now.forward(5)
    step = carry_out(a_promotion(), context)

    opened_id = "20260110_033005"
    version = run.facts.train.version
    assert step.message == f"promote_1 DONE: run {opened_id} promotes {version}"
    assert step.request == replace(
        a_promotion(opened_run_id=opened_id),
        state=SlotRequestState.DONE,
        answer=f"run {opened_id} promotes {version}",
        updated_at=NOW + timedelta(seconds=5),
    )
    assert step.run == context.store.known_run(opened_id)
    assert step.run == Run(
        run_id=opened_id,
        requested_by="anna",
        request_reason="forced: fees",
        created_at=NOW + timedelta(seconds=5),
        updated_at=NOW + timedelta(seconds=5),
        stage=Stage.PROMOTE,
        facts=RunFacts(
            train=replace(known(run.facts.train), incumbent_path=str(C)),
            gate=replace(
                known(run.facts.gate),
                alpha_spending=None,
                forced=ForcedPromotion(by="anna", reason="fees", of_run="20260104_000000", undecided=("incumbent",)),
            ),
        ),
    )
    (event,) = step.events
    assert (event.event_type, event.timestamp) == (EventType.STARTED, NOW + timedelta(seconds=5))
    assert context.verifier.requests[0][1].model_path == "/runs/x.pth"
    assert context.verifier.requests[0][1].expected_sha256 == "e" * 64


@pytest.mark.usefixtures("time_zone_of_tokyo")
def test_a_forced_run_has_an_id_of_its_own_and_the_accepted_contract(context: FakeContext) -> None:
    judged(context, replace(UNDECIDED, contract=replace(GOOD.contract, unknown="it cannot be read")))
    for run_id in ("20260110_033000", "20260110_033001", "20260110_033002"):
        context.store.record(replace(promoted_run(), run_id=run_id))
    context.slot.named = None
    step = carry_out(a_promotion(accepted_contract="paper:64:standardise:outcome:rsi"), context)

    assert (step.run.run_id, step.run.created_at) == ("20260110_033003", NOW)
    assert step.run.facts.train.incumbent_path is None
    assert step.run.facts.gate.forced.accepted_contract == "paper:64:standardise:outcome:rsi"


@pytest.mark.parametrize(
    ("run_id", "answer"),
    [
        ("20200101_000000", "there is no run 20200101_000000; `retrain-worker history` lists them"),
        (None, "there is no run None; `retrain-worker history` lists them"),
    ],
)
def test_an_unknown_run_is_not_promoted(context: FakeContext, run_id: str | None, answer: str) -> None:
    assert carry_out(a_promotion(run_id), context).request.answer == f"nothing was changed: {answer}"


def test_a_candidate_that_failed_is_not_promoted(context: FakeContext) -> None:
    judged(context, with_card(p_std=0.01))
    answer = carry_out(a_promotion(), context).request.answer

    assert answer.startswith("nothing was changed: what was measured and failed is never waived: confidence spread")


def test_a_promotion_needs_its_consent(context: FakeContext) -> None:
    judged(context)
    unforced = replace(a_promotion(), arguments=SlotRequestArguments(run_id="20260104_000000"))

    assert carry_out(unforced, context).request.answer == (
        "nothing was changed: incumbent could not be evaluated; --force replaces their result"
    )


def test_a_promotion_waits_for_nothing_and_is_refused_beside_a_run_at_work(context: FakeContext) -> None:
    judged(context)
    working = Run(run_id="20260105_000000", requested_by="x", request_reason="", created_at=NOW, updated_at=NOW)
    context.store.record(working)

    assert carry_out(a_promotion(), context).request.answer == (
        "nothing was changed: run 20260105_000000 is at PULL; request it again when it has ended"
    )


def test_a_pause_refuses_a_promotion(context: FakeContext) -> None:
    judged(context)
    context.store.set_pause(Pause(by="ada", reason="fees", since=NOW))

    assert carry_out(a_promotion(), context).request.answer == (
        "nothing was changed: promotions are paused until `retrain-worker resume` (ada: fees); "
        "`retrain-worker resume` ends the pause"
    )


def test_the_model_in_the_slot_is_not_promoted_again(context: FakeContext) -> None:
    run = judged(context)
    context.slot.named = Path(f"/engine/{run.facts.train.version}.pth")

    assert carry_out(a_promotion(), context).request.answer == (
        f"nothing was changed: {run.facts.train.version} is in the slot already"
    )


def test_the_file_of_a_forced_promotion_is_verified_first(context: FakeContext) -> None:
    run = judged(context)
    context.verifier.answers[OneOffTask.VERIFY] = Working(message="loading")
    step = carry_out(a_promotion(), context)

    assert step.message == f"promote_1: {run.facts.train.version} is being verified"
    assert (step.is_move, step.run) == (False, None)


# ---------------------------------------------------------------- the request of a run


@pytest.mark.parametrize(("before", "to_none"), [(B, False), (None, True)])
def test_a_run_requests_the_return_of_the_model_before_or_an_empty_slot(before: Path | None, to_none: bool) -> None:
    made = rollback_request_of(promoted_run(), deployed(C, before), requested_by="probation", reason="worse", at=NOW)

    assert made == SlotRequest(
        request_id=f"rollback_of_{RUN_ID}",
        kind=SlotRequestKind.ROLLBACK,
        arguments=SlotRequestArguments(only_from=str(C), run_id=RUN_ID, to_none=to_none),
        requested_by="probation",
        reason="worse",
        created_at=NOW,
        updated_at=NOW,
        answer="waiting for its turn",
    )


# ---------------------------------------------------------------- the history of the slot


def rollback(model: Path | None, before: Path) -> Deployment:
    return deployed(model, before, kind=DeploymentKind.ROLLBACK)


UNCONFIRMED_C = deployed(C, B, state=DeploymentState.NOT_CONFIRMED)


@pytest.mark.parametrize(
    ("history", "current", "target"),
    [
        ([], C, None),
        ([deployed(A, None)], A, None),
        ([deployed(B, A), deployed(C, B)], C, target_of(B)),
        ([deployed(B, A), deployed(C, B)], B, target_of(A)),
        ([deployed(B, A), deployed(C, B)], OTHER, None),
        ([deployed(B, A), deployed(C, B), rollback(B, C)], B, target_of(A)),
        ([deployed(B, A), deployed(C, B), rollback(None, C)], None, None),
        ([deployed(B, A), rollback(None, B), deployed(C, None)], C, target_of(A)),
        ([deployed(B, A), deployed(None, B, kind=DeploymentKind.EXTERNAL), deployed(C, None)], C, target_of(B)),
        # a rollback by VERSION, to a model that was rolled back before or is not in the history
        ([deployed(B, None), rollback(A, B)], A, None),
        ([deployed(A, None), rollback(None, A), deployed(B, None), rollback(A, B)], A, None),
        ([deployed(A, None), deployed(B, A), rollback(OTHER, B)], OTHER, target_of(A)),
        ([deployed(B, A), rollback(None, B), deployed(B, None, kind=DeploymentKind.ROLLBACK)], B, target_of(A)),
        ([deployed(C, B), deployed(B, C), deployed(A, B)], A, target_of(B)),
        # an unconfirmed model only where there is no other
        (
            [deployed(B, A), deployed(C, B, state=DeploymentState.NOT_CONFIRMED), deployed(OTHER, C)],
            OTHER,
            target_of(B),
        ),
        (
            [deployed(C, None, state=DeploymentState.NOT_CONFIRMED), deployed(OTHER, C)],
            OTHER,
            target_of(C, is_good=False),
        ),
        # the same model twice
        ([deployed(B, A), deployed(C, B), deployed(C, C)], C, target_of(B)),
        ([deployed(B, A, previous_sha256=None)], B, target_of(A, sha256=None)),
        ([deployed(B, A, previous_version=None)], B, target_of(A, version="")),
        ([deployed(B, A), deployed(C, B, sha256="")], C, target_of(B)),
    ],
)
def test_the_target_of_a_rollback_is_the_newest_earlier_model_that_was_not_rolled_back(
    history: list[Deployment], current: Path | None, target: Target | None
) -> None:
    assert roll_back_target(history, str(current) if current else None) == target


def test_a_blocked_model_is_no_target_and_one_without_a_hash_is_not_asked_for() -> None:
    history = [deployed(B, A, previous_sha256=None), deployed(C, B)]

    assert roll_back_target(history, str(C), is_blocked={sha256_of(B)}.__contains__) == target_of(A, sha256=None)


def test_a_model_that_a_rollback_went_past_is_no_target() -> None:
    history = [deployed(B, A), deployed(C, B), rollback(A, C), deployed(OTHER, A)]

    assert roll_back_target(history, str(OTHER)) == target_of(A)
    assert roll_back_target(history, str(OTHER), is_blocked={sha256_of(A)}.__contains__) is None


def test_a_version_is_found_by_its_name_or_path_with_the_newest_known_hash() -> None:
    history = [deployed(B, A), deployed(C, B, previous_sha256=None), deployed(A, C, sha256="")]

    assert known_version(history, B.stem) == known_version(history, str(B)) == target_of(B)
    assert known_version(history, A.stem) == target_of(A)
    assert known_version(history, "x") is None
    unhashed = [deployed(C, B, previous_sha256=None, state=DeploymentState.NOT_CONFIRMED)]
    assert known_version(unhashed, B.stem) == target_of(B, sha256=None)
    assert known_version(unhashed, C.stem) == target_of(C, is_good=False)
    assert known_versions(history) == (A.stem, C.stem, B.stem)
    assert known_versions([]) == ()


def test_the_promotion_of_a_model_is_the_newest_one_of_a_run() -> None:
    first, second = deployed(B, A), deployed(B, C, deployment_id="second")
    history = [first, second, rollback(C, B), deployed(OTHER, C, kind=DeploymentKind.EXTERNAL)]

    assert promotion_of(history, str(B)) is second
    assert promotion_of(history, str(OTHER)) is promotion_of(history, None) is None


@pytest.mark.parametrize("state", DeploymentState)
def test_a_deployment_is_confirmed_not_confirmed_or_unknown(state: DeploymentState) -> None:
    expected = {DeploymentState.CONFIRMED: True, DeploymentState.NOT_CONFIRMED: False}

    assert is_confirmed(deployed(B, A, state=state)) is expected.get(state)


# ---------------------------------------------------------------- external changes


def test_an_external_change_is_recorded_with_what_it_replaced(context: FakeContext) -> None:
    context.slot.named = OTHER
    context.now.forward(1.25)

    assert external_change.unrecorded(context) == Deployment(
        deployment_id="external_20260110_033001_250000",
        run_id=RUN_ID,
        kind=DeploymentKind.EXTERNAL,
        version="by_hand",
        model_path=str(OTHER),
        sha256="a" * 64,
        size_bytes=1,
        previous_version=C.stem,
        previous_model_path=str(C),
        previous_sha256=sha256_of(C),
        state=DeploymentState.NOT_ASKED,
        created_at=NOW + timedelta(seconds=1.25),
        updated_at=NOW + timedelta(seconds=1.25),
        requested_by="unknown",
        reason="PATCHTST_MODEL_PATH was changed externally",
    )


def test_the_model_of_the_first_start_is_recorded_without_a_predecessor(tmp_path: Path) -> None:
    context = fake_context(tmp_path, slot=FakeSlot(named=A))
    found = known(external_change.unrecorded(context))

    assert found.reason == "PATCHTST_MODEL_PATH named it at the first start"
    assert (found.run_id, found.previous_version, found.previous_model_path, found.previous_sha256) == (None,) * 4
    context.slot.named = None
    assert external_change.unrecorded(context) is None


def test_an_emptied_line_is_a_change_and_one_after_it_has_no_predecessor(context: FakeContext) -> None:
    context.slot.named = None
    emptied = known(external_change.unrecorded(context))
    assert (emptied.version, emptied.model_path, emptied.sha256, emptied.size_bytes) == ("none", "", "", 0)
    assert emptied.confirmation == "the slot names no model"

    context.store.record_deployment(emptied)
    assert external_change.unrecorded(context) is None
    context.slot.named = OTHER
    named = known(external_change.unrecorded(context))
    assert (named.previous_version, named.previous_model_path, named.previous_sha256) == ("none", None, None)


def test_a_line_that_names_the_recorded_model_or_one_of_a_swap_under_way_is_no_change(context: FakeContext) -> None:
    assert external_change.unrecorded(context) is None
    carry_out(a_request(), context)
    context.slot.named = B
    assert external_change.unrecorded(context) is None
    context.slot.named = OTHER
    assert external_change.unrecorded(context) is not None


class Unreadable(FakeSlot):
    """A model that the engine cannot read."""

    def check_ready(self, model: Path, *, expected_sha256: str | None) -> int:
        raise SlotError("the engine's user cannot read it", where=str(model))


class Changing(FakeSlot):
    """A model that is written while it is measured."""

    def sha256_of(self, model: Path) -> str | None:
        self.triggered.append(model)
        return str(len(self.triggered)) * 64


@pytest.mark.parametrize(
    ("slot", "measured"),
    [
        (Changing(named=OTHER), ("", 0, f"{OTHER}: not what its hash says")),
        (FakeSlot(named=OTHER, hashes={str(OTHER): None}), ("", 0, f"{OTHER} does not exist")),
        (Unreadable(named=OTHER), ("", 0, f"{OTHER}: the engine's user cannot read it")),
    ],
)
def test_an_external_change_to_a_file_that_cannot_be_used_is_recorded_with_the_cause(
    context: FakeContext, slot: FakeSlot, measured: tuple[str, int, str]
) -> None:
    found = known(external_change.unrecorded(replace(context, slot=slot)))

    assert (found.sha256, found.size_bytes, found.confirmation) == measured
