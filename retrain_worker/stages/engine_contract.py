"""The contract of an engine whose slot names no model: the last one that is known to have been in the slot."""

from __future__ import annotations

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.deployments import promotion_of
from retrain_worker.domain.recipe import Preset, Recipe
from retrain_worker.domain.worker_protocol import EmptySlot
from retrain_worker.stages.ports import RunStore, StageContext

#: newest runs that are searched for the contract of a model that this program did not promote
_MAX_RUNS = 100


def empty_slot(context: StageContext, *, incumbent_path: str | None) -> EmptySlot:
    """What is known of the engine beside `incumbent_path`, which needs no other source where it is a path."""
    if incumbent_path is not None:
        return EmptySlot()
    return EmptySlot(contract=known_contract(context.store), is_contract_required=context.policies.needs_known_contract)


def window_length(recipe: Recipe, store: RunStore | None, *, incumbent_path: str | None) -> int | None:
    """Rows per window of a candidate; None: those of `incumbent_path`, whose contract is not stored."""
    contract = known_contract(store, of=incumbent_path) if store is not None else None
    if recipe.preset is Preset.AUTO and contract is None and incumbent_path is not None:
        return None
    return recipe.window_length(contract.context_length if contract else None)


def known_contract(store: RunStore, *, of: str | None = None) -> ModelContract | None:
    """The contract of the newest model in the slot (None: of any) whose contract is stored; None without one."""
    history = store.reached_deployments()
    measured = {
        run.facts.train.incumbent_path: run.facts.gate.engine_contract
        for run in reversed(store.history(_MAX_RUNS))
        if run.facts.train and run.facts.gate and run.facts.gate.engine_contract
    }
    for change in reversed(history):
        if of is not None and change.model_path != of:
            continue
        promotion = promotion_of(history, change.model_path)
        run = store.run(promotion.run_id) if promotion else None
        if run is not None and run.facts.train is not None:
            return run.facts.train.contract
        if change.model_path in measured:
            return measured[change.model_path]
    return None
