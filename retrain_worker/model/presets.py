"""The two networks in use: `engine`, which the stack's engine builds by itself, and `paper`."""

from __future__ import annotations

from dataclasses import replace

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.recipe import ENGINE_CONTEXT_LENGTH, InputTransform, Preset
from retrain_worker.errors import ContractError
from retrain_worker.model.patchtst import PatchTSTConfig

#: inputs per row of the engine's network
ENGINE_INPUTS = 8
ENGINE_PATCH_LENGTH = 16

PAPER_PATCH_LENGTH = 16
PAPER_PATCH_STRIDE = 8


def config_for(contract: ModelContract, *, dropout: float, input_noise: float = 0.0) -> PatchTSTConfig:
    """The network that `contract` requires. Raises ContractError when no network fits it."""
    if contract.preset == Preset.ENGINE:
        network = engine(num_features=len(contract.feature_names), dropout=dropout)
    else:
        network = paper(
            num_features=len(contract.feature_names),
            context_length=contract.context_length,
            input_transform=contract.input_transform,
            dropout=dropout,
        )
    return replace(network, input_noise=input_noise)


def engine(*, num_features: int, dropout: float = 0.0) -> PatchTSTConfig:
    """The engine's network: 612,481 parameters, 8 patches of 16 rows x 8 inputs, post-norm, mean over patches."""
    if num_features not in (ENGINE_INPUTS // 2, ENGINE_INPUTS):
        raise ContractError(
            f"the engine's network takes {ENGINE_INPUTS // 2} or {ENGINE_INPUTS} features a row, not {num_features}",
            where="PRESET=engine",
            remedy=f"name {ENGINE_INPUTS // 2} or {ENGINE_INPUTS} features in FEATURE_NAMES, or set PRESET=paper",
        )
    return PatchTSTConfig(
        num_features=num_features,
        feature_repeats=ENGINE_INPUTS // num_features,
        context_length=ENGINE_CONTEXT_LENGTH,
        patch_length=ENGINE_PATCH_LENGTH,
        patch_stride=ENGINE_PATCH_LENGTH,
        mixes_channels=True,
        d_model=128,
        num_layers=3,
        num_heads=4,
        ffn_dim=512,
        norm="layernorm",
        is_pre_norm=False,
        activation="relu",
        pooling="mean",
        head_hidden=0,
        input_transform=InputTransform.MINMAX,
        dropout=dropout,
    )


def paper(
    *, num_features: int, context_length: int, input_transform: InputTransform, dropout: float = 0.0
) -> PatchTSTConfig:
    """The paper's network, sized for a few thousand samples: patches of 16 rows every 8, weighted."""
    return PatchTSTConfig(
        num_features=num_features,
        context_length=context_length,
        patch_length=PAPER_PATCH_LENGTH,
        patch_stride=PAPER_PATCH_STRIDE,
        mixes_channels=False,
        d_model=32,
        num_layers=2,
        num_heads=4,
        ffn_dim=64,
        norm="batchnorm",
        is_pre_norm=False,
        activation="gelu",
        pooling="weighted",
        head_hidden=32,
        input_transform=input_transform,
        dropout=dropout,
    )
