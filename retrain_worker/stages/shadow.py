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
from retrain_worker.domain.trial import Look, gives_way, judge_shadow, trial_policy
from retrain_worker.errors import ContractError, DataUnfitError, RetryLaterError, SlotError, SourceUnfitError
from retrain_worker.stages import look as looks
from retrain_worker.stages.ports import World
from retrain_worker.stages.step import Step


def shadow(run: Run, world: World) -> Step:
    """Promotion is due when every gate that counts has passed on the rows of the trial."""
    fact = run.fact(Stage.SHADOW)
    if not fact:
        return _begun(run, world)
    if fact.get("decision") == Decision.PASS:
        return _to_promotion(run, world)
    if (settled := _beside_others(run, world)) is not None:
        return settled
    try:
        return _look(run, world)
    except (RetryLaterError, ContractError, SourceUnfitError, DataUnfitError, SlotError) as error:
        return _in_time(looks.problem(run, world, str(error)), world)


def _begun(run: Run, world: World) -> Step:
    trained = run.fact(Stage.TRAIN)
    return looks.begun(
        run,
        world,
        {"since": run.fact(Stage.PULL)["last_at"], "incumbent_path": trained["incumbent_path"]},
        f"run {run.run_id}: {trained['version']} goes on trial beside the incumbent, until "
        f"{world.policies.shadow.min_outcomes} outcomes are known",
    )


def _beside_others(run: Run, world: World) -> Step | None:
    """What follows when another candidate is on trial, too; None: this one goes on."""
    on_trial = [other for other in world.store.waiting_runs() if other.stage is Stage.SHADOW]
    # in the order in which they were begun, whatever the clock said
    place = [other.run_id for other in on_trial].index(run.run_id)
    older, newer = on_trial[:place], on_trial[place + 1 :]
    if older:
        if all(gives_way(other.fact(Stage.SHADOW)) for other in older):
            return Step(run=run, sentence=f"run {run.run_id}: waits until the trial of run {older[0].run_id} has ended")
        kept = older[0]
        return _refused(
            run,
            world,
            f"{_version(kept)} is on trial and does not trail: {kept.fact(Stage.SHADOW)['known']} outcomes are known",
        )
    if newer and gives_way(run.fact(Stage.SHADOW)):
        return _refused(run, world, f"superseded by {_version(newer[-1])}")
    return None


def _look(run: Run, world: World) -> Step:
    fact, trained = run.fact(Stage.SHADOW), run.fact(Stage.TRAIN)
    current = world.slot.current_path()
    named = str(current) if current else None
    if named != fact["incumbent_path"]:
        return _anew(run, named, world)
    limits = world.policies.shadow
    policy = trial_policy(world.policies.gate, limits, run.fact(Stage.GATE))
    found = looks.look(
        run,
        world,
        model_path=trained["candidate_path"],
        reference_path=named,
        policy=policy,
        alpha=policy.incumbent_alpha,
    )
    if isinstance(found, Step):
        return found
    verdict = judge_shadow(found, policy=policy, shadow=limits, hours=looks.hours_since(fact["started_at"], world))
    known = looks.looked(run, world, _facts(found, verdict))
    if verdict.decision is Decision.UNDECIDED:
        return _in_time(known, world)
    if verdict.decision is Decision.REFUSE:
        return _refused(known, world, *verdict.reasons)
    return _to_promotion(replace(known, not_before=None), world)


def _facts(found: Look, verdict: Verdict) -> dict[str, object]:
    incumbent = found.evidence.incumbent
    return {
        **looks.counts_of(found),
        "decision": verdict.decision,
        "reasons": list(verdict.reasons),
        "gates": [asdict(gate) for gate in verdict.gates],
        "candidate": asdict(found.evidence.candidate),
        "incumbent": asdict(incumbent) if incumbent else None,
        "incumbent_absence": found.evidence.incumbent_absence,
        "policy": asdict(verdict.policy),
    }


def _anew(run: Run, named: str | None, world: World) -> Step:
    """Another model serves: what was recorded beside the old one says nothing about it."""
    fact, at = run.fact(Stage.SHADOW), world.now()
    changed = run.with_fact(
        Stage.SHADOW,
        {
            **fact,
            "incumbent_path": named,
            "since": at.isoformat(),
            "look_at": at.isoformat(),
            "look": fact["look"] + 1,
            "book": looks.new_book(run, at),
            "observed": 0,
            "foreseen": 0,
            "known": 0,
            "log_loss_gain": None,
        },
    )
    changed = changed.with_fact(Stage.TRAIN, {**run.fact(Stage.TRAIN), "incumbent_path": named})
    return Step(
        run=changed,
        sentence=f"run {run.run_id}: PATCHTST_MODEL_PATH now names {named}; the trial begins anew beside that one",
    )


def _in_time(run: Run, world: World) -> Step:
    """No verdict yet: the trial goes on, within its limit."""
    fact, limit = run.fact(Stage.SHADOW), world.policies.shadow.max_hours
    if looks.hours_since(fact["started_at"], world) < limit:
        return Step(run=run, sentence=looks.standing(run))
    why = fact["problem"] or "; ".join(fact.get("reasons", ()))
    return _refused(
        run, world, f"no verdict within {limit:g} h: {fact['known']} outcomes are known" + (f"; {why}" if why else "")
    )


def _to_promotion(run: Run, world: World) -> Step:
    """One run works at a time: the promotion waits for its turn."""
    working = world.store.unfinished_run()
    if working is not None and working.run_id != run.run_id:
        return Step(
            run=run, sentence=f"run {run.run_id} has passed its trial and waits for the end of run {working.run_id}"
        )
    return Step(
        run=run.moved_to(Stage.PROMOTE, at=world.now()),
        sentence=f"run {run.run_id}: {_version(run)} has passed its trial on "
        f"{run.fact(Stage.SHADOW)['known']} new outcomes",
    )


def _refused(run: Run, world: World, *reasons: str) -> Step:
    return Step(
        run=run.ended(Outcome.REFUSED, *reasons, at=world.now()),
        sentence=f"run {run.run_id} refused on trial: {'; '.join(reasons)}",
    )


def _version(run: Run) -> str:
    return str(run.fact(Stage.TRAIN).get("version"))
