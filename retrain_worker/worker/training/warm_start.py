"""The incumbent's weights as initial weights, where network and contract equal the candidate's; else the reason."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.recipe import Preset
from retrain_worker.domain.worker_protocol import TrainRequest
from retrain_worker.errors import ArtifactError
from retrain_worker.model import bundle, presets
from retrain_worker.model.patchtst import PatchTSTConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The initial weights of a training; `sentence` is recorded in the model file."""

    message: str
    #: None: random weights
    weights: dict[str, Tensor] | None = None
    #: the contract of these weights
    contract: ModelContract | None = None


def warm_start_of(
    request: TrainRequest, contracts: tuple[ModelContract, ...], feature_names: tuple[str, ...]
) -> WarmStart:
    """The start for `request`. That an incumbent does not fit is recorded in the log and in the model file."""
    if not request.recipe.warm_start:
        return WarmStart(message="scratch")
    found = _incumbent_start(request, contracts, feature_names)
    _log.info("WARM_START: %s", found.message)
    return found


def _incumbent_start(
    request: TrainRequest, contracts: tuple[ModelContract, ...], feature_names: tuple[str, ...]
) -> WarmStart:
    if request.incumbent_path is None:
        return WarmStart(message="scratch: there is no incumbent to start from")
    try:
        incumbent = bundle.read(Path(request.incumbent_path), feature_names=feature_names)
    except ArtifactError as error:
        return WarmStart(message=f"scratch: the incumbent cannot be read ({error.what})")
    for contract in contracts:
        if contract == incumbent.contract and _shape(presets.config_for(contract, dropout=0.0)) == _shape(
            incumbent.model.config
        ):
            return WarmStart(
                message=f"incumbent {incumbent.manifest.version}, sha256 {incumbent.manifest.sha256}",
                weights=dict(incumbent.model.state_dict()),
                contract=contract,
            )
    theirs, ours = incumbent.contract, contracts[0]
    return WarmStart(message=f"scratch: the incumbent's contract is another ({_said(theirs)}, not {_said(ours)})")


def _shape(config: PatchTSTConfig) -> PatchTSTConfig:
    """The config without values that matter in training only."""
    return replace(config, dropout=0.0, input_noise=0.0)


def _said(contract: ModelContract) -> str:
    return (
        f"{Preset(contract.preset)}, {contract.context_length} rows of {', '.join(contract.feature_names)}, "
        f"{contract.input_transform}, label {contract.label}"
    )
