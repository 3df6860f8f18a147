"""Gate: candidate and incumbent are measured on the same holdout rows; the domain decides."""

from __future__ import annotations

from dataclasses import asdict, replace

from retrain_worker.domain.alpha_spending import spend
from retrain_worker.domain.gates import Decision, decide
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.shadow_trial import may_go_on_trial
from retrain_worker.domain.worker_protocol import GateMeasured, GateRequest
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.train import trained_under
from retrain_worker.stages.worker_call import ask


def gate(run: Run, context: StageContext) -> Step:
    """Promotion is due on PASS. REFUSE and UNDECIDED both end the run as REFUSED: fail closed.

    With shadow trials on, the trial is due instead, which may also give an UNDECIDED gate the rows that it lacks.

    Training is due again when its settings are no longer in force: another split would put rows that the candidate was
    trained on into the holdout.
    """
    policies, trained = context.policies, run.fact(Stage.TRAIN)
    if trained["trained_under"] != trained_under(policies):
        return Step(
            run=run.moved_to(Stage.TRAIN, at=context.now()),
            message=f"run {run.run_id}: the settings changed since the training; trained again",
        )
    # the run's own instant, not the tick's: asked again, the request must be the same
    spending = spend(
        context.store.alpha_spending_before(run.run_id),
        at=run.created_at,
        skill_alpha=policies.gate.skill_alpha,
        per_year=policies.gate.false_promotions_per_year,
    )
    policy = replace(policies.gate, skill_alpha=spending.alpha)
    answer = ask(
        run,
        context,
        GateRequest(
            run_id=run.run_id,
            run_dir=str(context.folders.run_dir(run.run_id)),
            candidate_path=trained["candidate_path"],
            incumbent_path=trained["incumbent_path"],
            data=policies.data,
            split=policies.split,
            recipe=policies.recipe,
            policy=policy,
            memory_limit_bytes=policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    measured: GateMeasured = answer
    verdict = decide(measured.evidence, policy)
    incumbent = measured.evidence.incumbent
    known = run.with_fact(
        Stage.GATE,
        {
            "decision": verdict.decision,
            "reasons": list(verdict.reasons),
            "gates": [asdict(one) for one in verdict.gates],
            "candidate": asdict(measured.evidence.candidate),
            "incumbent": asdict(incumbent) if incumbent else None,
            "incumbent_absence": measured.evidence.incumbent_absence,
            "policy": asdict(verdict.policy),
            "spending": {**asdict(spending), "at": spending.at.isoformat(), "since": spending.since.isoformat()},
        },
    )
    if policies.shadow.is_on and may_go_on_trial(verdict):
        # anew: an earlier trial was beside another incumbent
        return Step(
            run=known.with_fact(Stage.SHADOW, {}).moved_to(Stage.SHADOW, at=context.now()),
            message=f"run {run.run_id}: gate {verdict.decision}; the candidate goes on trial",
        )
    if verdict.decision is Decision.PASS:
        return Step(
            run=known.moved_to(Stage.PROMOTE, at=context.now()),
            message=f"run {run.run_id}: every gate that counts has passed",
        )
    return Step(
        run=known.ended(Outcome.REFUSED, *verdict.reasons, at=context.now()),
        message=f"run {run.run_id} refused at the gate ({verdict.decision}): {'; '.join(verdict.reasons)}",
    )
