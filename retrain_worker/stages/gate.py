"""Gate: a worker measures candidate and incumbent on the same holdout rows, and the domain decides."""

from __future__ import annotations

from dataclasses import replace

from retrain_worker.domain.alpha_spending import spend
from retrain_worker.domain.facts import GateFacts, TrainFacts
from retrain_worker.domain.gates import Decision, decide
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.shadow_trial import may_go_on_trial
from retrain_worker.domain.worker_protocol import GateMeasured, GateRequest
from retrain_worker.stages.audit import reference_dir
from retrain_worker.stages.engine_contract import empty_slot
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step
from retrain_worker.stages.train import training_policies
from retrain_worker.stages.worker_call import ask


def gate(run: Run, context: StageContext) -> Step:
    """Promotion is due on PASS. REFUSE and UNDECIDED both end the run as REFUSED: fail closed.

    With shadow trials on, the trial is due instead; it may also collect the rows that an UNDECIDED gate lacks.

    Training is due again when its settings have changed: with another split, rows that the candidate was trained on
    would be in the holdout.
    """
    policies, trained = context.policies, run.facts.require(TrainFacts)
    if trained.policies != training_policies(policies):
        return Step(
            run=run.moved_to(Stage.TRAIN, at=context.now()),
            message=f"run {run.run_id}: the settings changed since the training; it is trained again",
        )
    # the run's own instant: a repeated request must equal the first one
    spending = spend(
        context.store.alpha_spending_before(run.run_id),
        at=run.created_at,
        skill_alpha=policies.gate.skill_alpha,
        per_year=policies.gate.false_promotions_per_year,
    )
    policy = policies.gate.spending(spending.alpha)
    answer = ask(
        run,
        context,
        GateRequest(
            run_id=run.run_id,
            run_dir=str(context.folders.run_dir(run.run_id)),
            candidate_path=trained.candidate_path,
            incumbent_path=trained.incumbent_path,
            data=policies.data,
            split=policies.split,
            recipe=policies.recipe,
            policy=policy,
            empty_slot=empty_slot(context, incumbent_path=trained.incumbent_path),
            reference_dir=reference_dir(context),
            memory_limit_bytes=policies.worker_memory_bytes,
        ),
    )
    if isinstance(answer, Step):
        return answer
    measured: GateMeasured = answer
    evidence, verdict = measured.evidence, decide(measured.evidence, policy)
    known = run.with_fact(
        GateFacts(
            verdict=verdict,
            candidate=evidence.candidate,
            incumbent=evidence.incumbent,
            incumbent_absence=evidence.incumbent_absence,
            comparison=evidence.comparison,
            folds=evidence.skill.folds if evidence.skill else (),
            alpha_spending=spending,
            engine_contract=measured.engine_contract,
        )
    )
    if policies.shadow.is_on and may_go_on_trial(verdict):
        # an earlier trial was beside another incumbent
        anew = replace(known, facts=replace(known.facts, shadow=None))
        return Step(
            run=anew.moved_to(Stage.SHADOW, at=context.now()),
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
