"""The model in the slot: the model and its contract, the contract alone, or why neither is known.

The contract counts even when the model cannot be measured on the available rows. An unreadable file is not an empty
slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.labels import Label
from retrain_worker.domain.worker_protocol import UNNAMED, EmptySlot
from retrain_worker.errors import ArtifactError, ContractError
from retrain_worker.model import bundle, presets
from retrain_worker.model.bundle import Bundle
from retrain_worker.worker import inference
from retrain_worker.worker.data.snapshot import Snapshot

#: why there is no contract for PRESET=auto
NOT_KNOWN = (
    "its slot has had no model with a known contract, and PRESET=auto does not guess; set PRESET=engine (the network "
    "that the stack's engine builds) or PRESET=paper"
)


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """The model in the slot, or the one that was replaced."""

    #: None: there is no model, or its file cannot be read; features that the file does not name are UNNAMED
    contract: ModelContract | None = None
    #: None: it cannot be measured on these rows
    model: Bundle | None = None
    #: why it cannot be measured
    absence: str = ""
    #: why its contract is not completely known; empty where it is, or where there is no model
    unknown: str = ""


def incumbent_of(
    path: str | None,
    snapshot: Snapshot,
    *,
    label: Label,
    if_none: str = "no model is in service",
    empty_slot: EmptySlot | None = None,
) -> Incumbent:
    """The model in `path`, for a measurement on rows that are labelled by `label`; None: what `empty_slot` knows."""
    if path is None:
        slot = empty_slot or EmptySlot()
        is_unknown = slot.contract is None and slot.is_contract_required
        return Incumbent(contract=slot.contract, absence=if_none, unknown=NOT_KNOWN if is_unknown else "")
    found = _read(Path(path), snapshot)
    if found.model is not None and found.model.contract.label != label:
        return replace(found, model=None, absence=f"it predicts {found.model.contract.label}, the candidate {label}")
    return found


def _read(path: Path, snapshot: Snapshot) -> Incumbent:
    try:
        model = bundle.read(path, feature_names=snapshot.feature_names)
    except ArtifactError as error:
        return Incumbent(contract=_without_names(path), absence=str(error), unknown=str(error))
    try:
        inference.features_of(snapshot, model.contract.feature_names)
    except ContractError as error:
        return Incumbent(contract=model.contract, absence=str(error))
    return Incumbent(contract=model.contract, model=model)


def _without_names(path: Path) -> ModelContract | None:
    """The contract of a file without feature names whose number of features is not that of the rows."""
    try:
        return bundle.read(path, feature_names=(UNNAMED,) * presets.ENGINE_INPUTS).contract
    except ArtifactError:
        return None
