"""The incumbent's weights as initial weights, if its network and contract are the candidate's; else the reason.

An incumbent that was trained on rows of the holdout would carry their outcomes into the candidate, so it is not used.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torch import Tensor

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.split_policy import Window
from retrain_worker.domain.worker_protocol import TrainRequest
from retrain_worker.errors import ArtifactError
from retrain_worker.model import bundle, patchtst, presets
from retrain_worker.worker.seen_rows import SeenRows, seen_by

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The initial weights of a training; `message` is recorded in the model file."""

    message: str
    #: None: random weights
    weights: dict[str, Tensor] | None = None
    #: of the file that the weights are from
    sha256: str | None = None
    #: the contract that these weights fit
    contract: ModelContract | None = None
    #: what that file has seen
    seen: tuple[Window, ...] = ()


def warm_start_of(
    request: TrainRequest,
    contracts: tuple[ModelContract, ...],
    feature_names: tuple[str, ...],
    *,
    holdout_start: datetime,
) -> WarmStart:
    """The initial weights that `request` asks for. If the incumbent does not fit, log and model file state why."""
    if not request.recipe.warm_start:
        return WarmStart(message="scratch")
    found = _incumbent_start(request, contracts, feature_names, holdout_start)
    _log.info("WARM_START: %s", found.message)
    return found


def _incumbent_start(
    request: TrainRequest,
    contracts: tuple[ModelContract, ...],
    feature_names: tuple[str, ...],
    holdout_start: datetime,
) -> WarmStart:
    if request.incumbent_path is None:
        return WarmStart(message="scratch: no incumbent")
    try:
        incumbent = bundle.read(Path(request.incumbent_path), feature_names=feature_names)
    except ArtifactError as error:
        return WarmStart(message=f"scratch: the incumbent cannot be read ({error.what})")
    for contract in contracts:
        network = presets.config_for(contract, dropout=0.0)
        file_network = patchtst.folded_config(network)
        if contract == incumbent.contract and file_network.architecture == incumbent.model.config.architecture:
            seen = seen_by(incumbent.manifest)
            if seen.until > holdout_start:
                return WarmStart(message=_seen_holdout(seen, holdout_start))
            return WarmStart(
                message=f"incumbent {incumbent.manifest.version}, sha256 {incumbent.manifest.sha256}",
                weights=patchtst.unfolded_state(incumbent.model.state_dict(), network),
                sha256=incumbent.manifest.sha256,
                contract=contract,
                seen=seen.windows,
            )
    theirs, ours = incumbent.contract, contracts[0]
    return WarmStart(
        message=f"scratch: the incumbent has another contract ({_described(theirs)}, not {_described(ours)})"
    )


def _seen_holdout(seen: SeenRows, holdout_start: datetime) -> str:
    known = "was" if seen.is_known else "may have been"
    return (
        f"scratch: the incumbent {known} trained on rows until {seen.until:%Y-%m-%d %H:%M} UTC, and the holdout begins "
        f"at {holdout_start:%Y-%m-%d %H:%M} UTC"
    )


def _described(contract: ModelContract) -> str:
    return (
        f"{contract.preset}, {contract.context_length} rows of {', '.join(contract.feature_names)}, "
        f"{contract.input_transform}, label {contract.label}"
    )
