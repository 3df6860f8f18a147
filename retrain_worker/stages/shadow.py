"""SHADOW: evaluate the candidate beside the incumbent on rows that arrive after its training.

The trial counts outcomes, not hours, and the gates of the holdout decide it once enough outcomes are known. One
candidate is on trial at a time: a newer one replaces one that trails (domain.shadow_trial.gives_way), and is refused
otherwise. When the slot names another model, the trial restarts beside that model; its time limit continues.
"""

from __future__ import annotations

from dataclasses import replace

from retrain_worker.domain.facts import GateFacts, ShadowFacts, TrainFacts
from retrain_worker.domain.gates import Decision
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.shadow_trial import gives_way, judge_shadow, trial_policy
from retrain_worker.errors import ContractError, DataUnfitError, RetryLaterError, SlotError, SourceUnfitError
from retrain_worker.stages import trial_evaluation
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step


def shadow(run: Run, context: StageContext) -> Step:
    """Promotion is due when every gate that counts has passed on the rows of the trial."""
    facts = run.facts.shadow
    if facts is None:
        return _begun(run, context)
    if facts.has_passed:
        return _to_promotion(run, facts, context)
    if (settled := _beside_others(run, context)) is not None:
        return settled
    try:
        return _evaluate(run, facts, context)
    except (RetryLaterError, ContractError, SourceUnfitError, DataUnfitError, SlotError) as error:
        return _in_time(run, replace(facts, problem=str(error)), context)


def _begun(run: Run, context: StageContext) -> Step:
    trained, now = run.facts.require(TrainFacts), context.now()
    facts = ShadowFacts(
        since=trial_evaluation.newest_used(run, now) or run.created_at,
        prediction_log=trial_evaluation.new_prediction_log(run, now),
        evaluation_at=now,
        incumbent_path=trained.incumbent_path,
        problem=trial_evaluation.restart_note(run),
    )
    note = f"; {facts.problem}" if facts.problem else ""
    return Step(
        run=run.with_fact(facts),
        message=f"run {run.run_id}: {trained.version} is on trial beside the incumbent until "
        f"{context.policies.shadow.min_outcomes} outcomes are known{note}",
    )


def _beside_others(run: Run, context: StageContext) -> Step | None:
    """The step that another candidate on trial causes; None: this one continues."""
    # in the order in which they were opened, not by the clock
    on_trial = [other for other in context.store.waiting_runs() if other.stage is Stage.SHADOW]
    place = [other.run_id for other in on_trial].index(run.run_id)
    older, newer = on_trial[:place], on_trial[place + 1 :]
    if kept := next((other for other in older if not gives_way(other.facts.shadow)), None):
        outcomes = kept.facts.require(ShadowFacts).num_outcomes
        return _refused(run, context, f"{_version(kept)} is on trial and does not trail: {outcomes} outcomes are known")
    if older:
        return Step(run=run, message=f"run {run.run_id}: waits until the trial of run {older[0].run_id} has ended")
    if newer and gives_way(run.facts.shadow):
        return _refused(run, context, f"superseded by {_version(newer[-1])}")
    return None


def _evaluate(run: Run, facts: ShadowFacts, context: StageContext) -> Step:
    trained, gated = run.facts.require(TrainFacts), run.facts.require(GateFacts)
    current = context.slot.current_path()
    named = str(current) if current else None
    if named != facts.incumbent_path:
        return _again(run, facts, named, context)
    limits = context.policies.shadow
    policy = trial_policy(context.policies.gate, limits, gated.verdict)
    found = trial_evaluation.evaluate(
        run,
        facts,
        context,
        model_path=trained.candidate_path,
        reference_path=named,
        policy=policy,
        alpha=policy.incumbent_alpha,
    )
    if isinstance(found, Step):
        return found
    hours = trial_evaluation.hours_at_stage(run, context)
    verdict = judge_shadow(found, policy=policy, shadow=limits, hours=hours)
    facts = replace(
        trial_evaluation.evaluated(facts, found),
        verdict=verdict,
        candidate=found.evidence.candidate,
        incumbent=found.evidence.incumbent,
    )
    if verdict.decision is Decision.UNDECIDED:
        return _in_time(run, facts, context)
    if verdict.decision is Decision.REFUSE:
        return _refused(run.with_fact(facts), context, *verdict.reasons)
    return _to_promotion(replace(run.with_fact(facts), not_before=None), facts, context)


def _again(run: Run, facts: ShadowFacts, named: str | None, context: StageContext) -> Step:
    """Restart the trial beside another incumbent; predictions beside the previous one do not count."""
    at = context.now()
    anew = ShadowFacts(
        since=at,
        prediction_log=trial_evaluation.new_prediction_log(run, at),
        evaluation=facts.evaluation + 1,
        evaluation_at=at,
        incumbent_path=named,
    )
    trained = replace(run.facts.require(TrainFacts), incumbent_path=named)
    return Step(
        run=run.with_fact(anew).with_fact(trained),
        message=f"run {run.run_id}: PATCHTST_MODEL_PATH now names {named or 'nothing'}; the trial begins again",
    )


def _in_time(run: Run, facts: ShadowFacts, context: StageContext) -> Step:
    """No verdict yet: continue within the time limit."""
    known = trial_evaluation.planned(run, facts, context)
    if not trial_evaluation.is_over(run, context):
        return Step(run=known, message=trial_evaluation.standing(known), is_evaluation=True)
    cause = facts.problem or "; ".join(facts.verdict.reasons if facts.verdict else ())
    return _refused(
        known,
        context,
        f"no verdict within {context.policies.shadow.max_hours:g} h: {facts.num_outcomes} outcomes are known"
        + (f"; {cause}" if cause else ""),
    )


def _to_promotion(run: Run, facts: ShadowFacts, context: StageContext) -> Step:
    """Wait until no other run is working and no pause holds promotions, then promote."""
    working = context.store.unfinished_run()
    if working is not None and working.run_id != run.run_id:
        return Step(
            run=run, message=f"run {run.run_id} has passed its trial and waits for the end of run {working.run_id}"
        )
    if pause := context.pause:
        return Step(run=run, message=f"run {run.run_id} has passed its trial and waits: {pause.message}")
    return Step(
        run=run.moved_to(Stage.PROMOTE, at=context.now()),
        message=f"run {run.run_id}: {_version(run)} has passed its trial on {facts.num_outcomes} new outcomes",
    )


def _refused(run: Run, context: StageContext, *reasons: str) -> Step:
    return Step(
        run=run.ended(Outcome.REFUSED, *reasons, at=context.now()),
        message=f"run {run.run_id} refused on trial: {'; '.join(reasons)}",
    )


def _version(run: Run) -> str:
    return run.facts.train.version if run.facts.train else f"the candidate of run {run.run_id}"
