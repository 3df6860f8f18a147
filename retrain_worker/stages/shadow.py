"""Shadow: the candidate scores the rows that arrive after its training, beside the incumbent; its answers serve nobody.

Counted in outcomes, not in hours; decided by the same gates as on the holdout, once enough outcomes are known. One
candidate is on trial at a time: a newer one takes the place of one that trails (domain.trial.gives_way), and is refused
otherwise. When the engine is pointed elsewhere meanwhile, the trial begins anew beside that model; its time limit does
not.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from retrain_worker.domain.gates import Decision, Verdict
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.shadow_trial import gives_way, judge_shadow, trial_policy
from retrain_worker.domain.trial_evaluation import TrialEvaluation
from retrain_worker.errors import ContractError, DataUnfitError, RetryLaterError, SlotError, SourceUnfitError
from retrain_worker.stages import trial_evaluation
from retrain_worker.stages.ports import StageContext
from retrain_worker.stages.step import Step


def shadow(run: Run, context: StageContext) -> Step:
    """Promotion is due when every gate that counts has passed on the rows of the trial."""
    fact = run.fact(Stage.SHADOW)
    if not fact:
        return _begun(run, context)
    if fact.get("decision") == Decision.PASS:
        return _to_promotion(run, context)
    if (settled := _beside_others(run, context)) is not None:
        return settled
    try:
        return _evaluate(run, context)
    except (RetryLaterError, ContractError, SourceUnfitError, DataUnfitError, SlotError) as error:
        return _in_time(trial_evaluation.problem(run, context, str(error)), context)


def _begun(run: Run, context: StageContext) -> Step:
    trained = run.fact(Stage.TRAIN)
    return trial_evaluation.begun(
        run,
        context,
        {"since": run.fact(Stage.PULL)["last_at"], "incumbent_path": trained["incumbent_path"]},
        f"run {run.run_id}: {trained['version']} goes on trial beside the incumbent, until "
        f"{context.policies.shadow.min_outcomes} outcomes are known",
    )


def _beside_others(run: Run, context: StageContext) -> Step | None:
    """What follows when another candidate is on trial, too; None: this one goes on."""
    on_trial = [other for other in context.store.waiting_runs() if other.stage is Stage.SHADOW]
    # in the order in which they were begun, whatever the clock said
    place = [other.run_id for other in on_trial].index(run.run_id)
    older, newer = on_trial[:place], on_trial[place + 1 :]
    if older:
        if all(gives_way(other.fact(Stage.SHADOW)) for other in older):
            return Step(run=run, message=f"run {run.run_id}: waits until the trial of run {older[0].run_id} has ended")
        kept = older[0]
        return _refused(
            run,
            context,
            f"{_version(kept)} is on trial and does not trail: {kept.fact(Stage.SHADOW)['known']} outcomes are known",
        )
    if newer and gives_way(run.fact(Stage.SHADOW)):
        return _refused(run, context, f"superseded by {_version(newer[-1])}")
    return None


def _evaluate(run: Run, context: StageContext) -> Step:
    fact, trained = run.fact(Stage.SHADOW), run.fact(Stage.TRAIN)
    current = context.slot.current_path()
    named = str(current) if current else None
    if named != fact["incumbent_path"]:
        return _anew(run, named, context)
    limits = context.policies.shadow
    policy = trial_policy(context.policies.gate, limits, run.fact(Stage.GATE))
    found = trial_evaluation.evaluate(
        run,
        context,
        model_path=trained["candidate_path"],
        reference_path=named,
        policy=policy,
        alpha=policy.incumbent_alpha,
    )
    if isinstance(found, Step):
        return found
    verdict = judge_shadow(
        found, policy=policy, shadow=limits, hours=trial_evaluation.hours_since(fact["started_at"], context)
    )
    known = trial_evaluation.looked(run, context, _facts(found, verdict))
    if verdict.decision is Decision.UNDECIDED:
        return _in_time(known, context)
    if verdict.decision is Decision.REFUSE:
        return _refused(known, context, *verdict.reasons)
    return _to_promotion(replace(known, not_before=None), context)


def _facts(found: TrialEvaluation, verdict: Verdict) -> dict[str, object]:
    incumbent = found.evidence.incumbent
    return {
        **trial_evaluation.counts_of(found),
        "decision": verdict.decision,
        "reasons": list(verdict.reasons),
        "gates": [asdict(gate) for gate in verdict.gates],
        "candidate": asdict(found.evidence.candidate),
        "incumbent": asdict(incumbent) if incumbent else None,
        "incumbent_absence": found.evidence.incumbent_absence,
        "policy": asdict(verdict.policy),
    }


def _anew(run: Run, named: str | None, context: StageContext) -> Step:
    """Another model serves: what was recorded beside the old one says nothing about it."""
    fact, at = run.fact(Stage.SHADOW), context.now()
    changed = run.with_fact(
        Stage.SHADOW,
        {
            **fact,
            "incumbent_path": named,
            "since": at.isoformat(),
            "look_at": at.isoformat(),
            "look": fact["look"] + 1,
            "book": trial_evaluation.new_prediction_log(run, at),
            "observed": 0,
            "foreseen": 0,
            "known": 0,
            "log_loss_gain": None,
        },
    )
    changed = changed.with_fact(Stage.TRAIN, {**run.fact(Stage.TRAIN), "incumbent_path": named})
    return Step(
        run=changed,
        message=f"run {run.run_id}: PATCHTST_MODEL_PATH now names {named}; the trial begins anew beside that one",
    )


def _in_time(run: Run, context: StageContext) -> Step:
    """No verdict yet: the trial goes on, within its limit."""
    fact, limit = run.fact(Stage.SHADOW), context.policies.shadow.max_hours
    if trial_evaluation.hours_since(fact["started_at"], context) < limit:
        return Step(run=run, message=trial_evaluation.standing(run))
    why = fact["problem"] or "; ".join(fact.get("reasons", ()))
    return _refused(
        run, context, f"no verdict within {limit:g} h: {fact['known']} outcomes are known" + (f"; {why}" if why else "")
    )


def _to_promotion(run: Run, context: StageContext) -> Step:
    """One run works at a time: the promotion waits for its turn."""
    working = context.store.unfinished_run()
    if working is not None and working.run_id != run.run_id:
        return Step(
            run=run, message=f"run {run.run_id} has passed its trial and waits for the end of run {working.run_id}"
        )
    return Step(
        run=run.moved_to(Stage.PROMOTE, at=context.now()),
        message=f"run {run.run_id}: {_version(run)} has passed its trial on "
        f"{run.fact(Stage.SHADOW)['known']} new outcomes",
    )


def _refused(run: Run, context: StageContext, *reasons: str) -> Step:
    return Step(
        run=run.ended(Outcome.REFUSED, *reasons, at=context.now()),
        message=f"run {run.run_id} refused on trial: {'; '.join(reasons)}",
    )


def _version(run: Run) -> str:
    return str(run.fact(Stage.TRAIN).get("version"))
