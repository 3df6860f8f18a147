"""PatchTST: a window is cut into patches, a transformer encodes them, and the result is one logit per window.

"A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", Nie et al., ICLR 2023, arXiv 2211.14730.
With `mixes_channels=False` this is the paper's network (each feature is a series of its own, one set of weights for
all of them); with the same weights it equals transformers' PatchTSTForClassification. With `mixes_channels=True` a
patch holds all features, which is what the stack's engine builds; with the same weights it equals a
torch.nn.TransformerEncoder, and its parameters have the same names. `presets.py` holds the two configurations in use.

Shape suffixes: B windows, T rows of a window, F features of a row, C channels (F, or F repeated), G channels that are
series of their own (C, or 1 when mixed), S = B x G series, N patches, P values in a patch, D width of the model,
H heads, K = D / H width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from retrain_worker.domain.recipe import InputTransform
from retrain_worker.errors import ContractError

#: added to the variance of a window by the paper's instance normalisation, as transformers does
INSTANCE_EPSILON = 1e-5
#: added to the range of a window by the engine's min-max
MINMAX_EPSILON = 1e-8
#: std of the initial position encodings, by `mixes_channels`. As large as that of the embedded patches: with the usual
#: 0.02 the engine's network, which takes the mean over patches, needs three epochs to distinguish positions
POSITION_STD = {False: 0.5, True: 1.0}
#: a feature whose std is under this share of its mean is constant in the precision of float32
CONSTANT_SHARE = 1e-6
#: largest value of any size in a config, which may come from any file
MAX_SIZE = 65_536
MAX_LAYERS = 64

_NORMS: dict[str, Callable[[int], nn.Module]] = {"layernorm": nn.LayerNorm, "batchnorm": nn.BatchNorm1d}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "gelu": functional.gelu}
_POOLINGS = ("mean", "max", "flatten", "weighted")
#: of the weights of the patches before training: the logarithm of a patch's weight over that of the next older one
RECENCY = 1.0
#: the parameter behind these weights is smaller than their logarithms by this factor, so that they learn faster
POOL_SPEED = 5.0
#: smaller weights of patches count as this one where they are computed from a model file
MIN_PATCH_WEIGHT = 1e-6


@dataclass(frozen=True, kw_only=True)
class PatchTSTConfig:
    """Architecture and regularisation of one network. Raises ContractError when its sizes do not fit together."""

    #: F, features of a raw row
    num_features: int
    #: how often the features fill the input (the engine has 8 inputs: 4 features fill them twice)
    feature_repeats: int = 1
    #: T, rows of a window
    context_length: int
    #: rows of a patch
    patch_length: int
    #: rows from one patch to the next
    patch_stride: int
    #: a patch holds every feature (engine), or each feature is a series of its own (paper)
    mixes_channels: bool
    d_model: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    #: layernorm | batchnorm (over all patches of all series in the batch)
    norm: str
    #: normalise before each sublayer, or after it
    is_pre_norm: bool
    #: relu | gelu
    activation: str
    #: mean | max over the patches, flatten them, or a weighted mean whose weights are learned, see `folded`
    pooling: str
    #: width of a hidden layer between the pooled features and the last layer; 0 = none, as in the paper. Without one a
    #: channel-independent network is a sum over features: it has no interactions of two, and its logit cannot saturate
    head_hidden: int
    #: standardise | instance | minmax, see `PatchTST.transform`
    input_transform: str
    #: in training mode only
    dropout: float = 0.0
    #: std of the noise on the transformed input, in training mode only. On every value it acts as a ridge penalty
    #: against weight on single rows. It is also added to level and scale of every feature in a window, because after
    #: min-max both depend on two rows
    input_noise: float = 0.0

    def __post_init__(self) -> None:
        """Check that the sizes fit."""
        problems = [
            f"{name} {size} is not in 1..{MAX_SIZE}"
            for name in (
                "num_features",
                "feature_repeats",
                "context_length",
                "patch_length",
                "patch_stride",
                "d_model",
                "num_layers",
                "num_heads",
                "ffn_dim",
            )
            if not (isinstance(size := getattr(self, name), int) and 1 <= size <= MAX_SIZE)
        ]
        if not (isinstance(self.head_hidden, int) and 0 <= self.head_hidden <= MAX_SIZE):
            problems.append(f"head_hidden {self.head_hidden} is not in 0..{MAX_SIZE}")
        if not problems and self.context_length < self.patch_length:
            problems.append(f"a window of {self.context_length} rows is shorter than a patch of {self.patch_length}")
        if not problems and self.d_model % self.num_heads:
            problems.append(f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
        if not problems and self.num_layers > MAX_LAYERS:
            problems.append(f"num_layers {self.num_layers} is over {MAX_LAYERS}")
        for name, known in (("norm", _NORMS), ("activation", _ACTIVATIONS), ("pooling", _POOLINGS)):
            if getattr(self, name) not in known:
                problems.append(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.input_transform not in (InputTransform.STANDARDISE, InputTransform.INSTANCE, InputTransform.MINMAX):
            problems.append(f"input_transform {self.input_transform!r} is not standardise, instance or minmax")
        if problems:
            raise ContractError("; ".join(problems), where="network", remedy="check SEQ_LEN and FEATURE_NAMES")

    @property
    def architecture(self) -> dict[str, Any]:
        """What a model file records: every field but those that act in training mode only."""
        return {name: value for name, value in asdict(self).items() if name not in ("dropout", "input_noise")}

    @property
    def num_channels(self) -> int:
        """C."""
        return self.num_features * self.feature_repeats

    @property
    def num_series(self) -> int:
        """G, series per window that the transformer encodes."""
        return 1 if self.mixes_channels else self.num_channels

    @property
    def num_patches(self) -> int:
        """N."""
        return (self.context_length - self.patch_length) // self.patch_stride + 1

    @property
    def patch_width(self) -> int:
        """P, values in a patch."""
        return self.patch_length * (self.num_channels if self.mixes_channels else 1)

    @property
    def pooled_width(self) -> int:
        """Width of the head's input."""
        return self.num_series * self.d_model * (self.num_patches if self.pooling == "flatten" else 1)


class SelfAttention(nn.Module):
    """Multi-head self-attention, named as torch.nn.MultiheadAttention; plain products are fast for few patches."""

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * config.d_model, config.d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * config.d_model))
        self.out_proj = nn.Linear(config.d_model, config.d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_SND: Tensor) -> Tensor:
        """(S, N, D) to (S, N, D)."""
        S, N, D = x_SND.shape
        H, K = self.num_heads, D // self.num_heads
        qkv = functional.linear(x_SND, self.in_proj_weight, self.in_proj_bias).view(S, N, 3, H, K)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, S * H, N, K).unbind(0)
        weights = torch.softmax(torch.bmm(q * K**-0.5, k.transpose(1, 2)), dim=-1)
        weights = functional.dropout(weights, self.dropout, self.training)
        attended_SND = torch.bmm(weights, v).view(S, H, N, K).transpose(1, 2).reshape(S, N, D)
        return self.out_proj(attended_SND)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual; named as torch.nn.TransformerEncoderLayer."""

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        self.is_pre_norm, self.dropout = config.is_pre_norm, config.dropout
        self.activation = _ACTIVATIONS[config.activation]
        self.self_attn = SelfAttention(config)
        self.linear1 = nn.Linear(config.d_model, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, config.d_model)
        self.norm1 = _NORMS[config.norm](config.d_model)
        self.norm2 = _NORMS[config.norm](config.d_model)

    def forward(self, x_SND: Tensor) -> Tensor:
        """(S, N, D) to (S, N, D)."""
        if self.is_pre_norm:
            x_SND = x_SND + self._drop(self.self_attn(_each(self.norm1, x_SND)))
            return x_SND + self._drop(self._feed_forward(_each(self.norm2, x_SND)))
        x_SND = _each(self.norm1, x_SND + self._drop(self.self_attn(x_SND)))
        return _each(self.norm2, x_SND + self._drop(self._feed_forward(x_SND)))

    def _feed_forward(self, x_SND: Tensor) -> Tensor:
        return self.linear2(self._drop(self.activation(self.linear1(x_SND))))  # type: ignore[no-any-return]

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


def _each(norm: nn.Module, x_SND: Tensor) -> Tensor:
    """Normalise over D; batch norm computes its statistics over S and N together."""
    return norm(x_SND.flatten(0, 1)).view_as(x_SND)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The stack of layers, named as torch.nn.TransformerEncoder."""

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))

    def forward(self, x_SND: Tensor) -> Tensor:
        """(S, N, D) to (S, N, D)."""
        for layer in self.layers:
            x_SND = layer(x_SND)
        return x_SND


class PatchTST(nn.Module):
    """Raw windows to logits; sigmoid of a logit is P(label = 1)."""

    input_mean: Tensor
    #: 1 / std; 0 for a feature that was constant
    input_scale: Tensor

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(config.patch_width, config.d_model)
        position_std = POSITION_STD[config.mixes_channels]
        self.pos_encoding = nn.Parameter(
            nn.init.normal_(torch.empty(1, config.num_patches, config.d_model), std=position_std)
        )
        self.transformer = Encoder(config)
        if config.pooling == "weighted":
            ages_N = torch.arange(config.num_patches - 1, -1, -1, dtype=torch.float32)
            self.pool_N = nn.Parameter(ages_N * (-RECENCY / POOL_SPEED))
        self.head_hidden = nn.Linear(config.pooled_width, config.head_hidden) if config.head_hidden else None
        self.output_proj = nn.Linear(config.head_hidden or config.pooled_width, 1)
        if config.input_transform == InputTransform.STANDARDISE:
            self.register_buffer("input_mean", torch.zeros(config.num_features))
            self.register_buffer("input_scale", torch.ones(config.num_features))

    def forward(self, raw_BTF: Tensor) -> Tensor:
        """Logits (B,) of raw windows (B, T, F)."""
        return self.network(self.transform(raw_BTF))

    def transform(self, raw_BTF: Tensor) -> Tensor:
        """The network's input (B, T, C): the transform that a serving process must apply to raw rows.

        standardise: (x - mean) / std of the training part; a feature constant there becomes 0.
        instance: the paper's, (x - mean) / sqrt(variance + 1e-5) of the window.
        minmax: the engine's, (x - min) / (max - min + 1e-8) of the window.
        """
        match self.config.input_transform:
            case InputTransform.STANDARDISE:
                x_BTF = (raw_BTF - self.input_mean) * self.input_scale
            case InputTransform.INSTANCE:
                # in double: the square of a large finite feature must not overflow
                wide_BTF = raw_BTF.double()
                mean = wide_BTF.mean(dim=1, keepdim=True)
                variance = wide_BTF.var(dim=1, keepdim=True, correction=0)
                x_BTF = ((wide_BTF - mean) / torch.sqrt(variance + INSTANCE_EPSILON)).float()
            case _:
                low, high = torch.aminmax(raw_BTF, dim=1, keepdim=True)
                x_BTF = (raw_BTF - low) / (high - low + MINMAX_EPSILON)
        if self.training and self.config.input_noise:
            x_BTF = _with_noise(x_BTF, self.config.input_noise)
        return x_BTF.repeat(1, 1, self.config.feature_repeats)

    def network(self, x_BTC: Tensor) -> Tensor:
        """Logits (B,) of transformed windows (B, T, C)."""
        return self.head(self.encoded(x_BTC))

    def encoded(self, x_BTC: Tensor) -> Tensor:
        """The encoded patches (S, N, D) of transformed windows."""
        z_SND: Tensor = self.transformer(self.patch_embedding(self.patches(x_BTC)) + self.pos_encoding)
        return z_SND

    def head(self, z_SND: Tensor) -> Tensor:
        """Logits (B,) of encoded patches."""
        config = self.config
        z_BGND = z_SND.view(-1, config.num_series, config.num_patches, config.d_model)
        if config.pooling == "mean":
            z_BGND = z_BGND.mean(dim=2)
        elif config.pooling == "max":
            z_BGND = z_BGND.amax(dim=2)
        elif config.pooling == "weighted":
            z_BGND = (z_BGND * self.patch_weights()[:, None]).sum(dim=2)
        z = z_BGND.flatten(1)
        if self.head_hidden is not None:
            z = functional.dropout(_ACTIVATIONS[config.activation](self.head_hidden(z)), config.dropout, self.training)
        return self.output_proj(z).squeeze(-1)  # type: ignore[no-any-return]

    def patch_weights(self) -> Tensor:
        """(N,), oldest patch first, their sum is 1: the share of each in the pooled features of a weighted network."""
        return torch.softmax(POOL_SPEED * self.pool_N, dim=0)

    def patches(self, x_BTC: Tensor) -> Tensor:
        """(S, N, P). Where patches do not cover the window, its oldest rows are left out."""
        config = self.config
        covered = config.patch_length + config.patch_stride * (config.num_patches - 1)
        # (B, N, C, rows of a patch)
        patches = x_BTC[:, config.context_length - covered :].unfold(1, config.patch_length, config.patch_stride)
        # mixed: (B, N, rows, C), the order in which the engine flattens a patch
        patches = patches.transpose(2, 3) if config.mixes_channels else patches.transpose(1, 2)
        return patches.reshape(-1, config.num_patches, config.patch_width)

    @torch.no_grad()
    def standardise_on(self, rows_NF: NDArray[np.float32]) -> None:
        """Set mean and scale of every feature from these raw rows, computed in float64."""
        mean = rows_NF.mean(axis=0, dtype=np.float64)
        std = rows_NF.std(axis=0, dtype=np.float64)
        is_constant = std <= CONSTANT_SHARE * np.abs(mean)
        scale = np.where(is_constant, 0.0, 1.0 / np.where(is_constant, 1.0, std))
        self.input_mean.copy_(torch.from_numpy(mean))
        self.input_scale.copy_(torch.from_numpy(scale))

    @torch.no_grad()
    def centre_on(self, raw_BTF: Tensor) -> None:
        """Scale the initial patch embedding so that these raw windows, transformed, have mean 0 and std 1 in it.

        Values after min-max have mean 0.5 and std 0.2; without this the embedding needs epochs to centre them.
        """
        x_BTC = self.transform(raw_BTF)
        mean_C, std_C = x_BTC.mean(dim=(0, 1)), x_BTC.std(dim=(0, 1)).clamp_min(MINMAX_EPSILON)
        channels = self.config.num_channels if self.config.mixes_channels else 1
        weight_DPC = self.patch_embedding.weight.view(self.config.d_model, self.config.patch_length, channels)
        weight_DPC /= std_C
        self.patch_embedding.bias.copy_(-(weight_DPC * mean_C).sum(dim=(1, 2)))


def _with_noise(x_BTF: Tensor, std: float) -> Tensor:
    """The windows with noise on each value, and on level and scale of each feature in a window."""
    level, scale = std * torch.randn(2, len(x_BTF), 1, x_BTF.shape[2], device=x_BTF.device)
    mean = x_BTF.mean(dim=1, keepdim=True)
    noisy_BTF: Tensor = mean + level + (x_BTF - mean) * torch.exp(scale) + std * torch.randn_like(x_BTF)
    return noisy_BTF


@torch.inference_mode()
def logits(model: PatchTST, windows_BTF: NDArray[np.float32], *, batch_size: int = 1024) -> NDArray[np.float64]:
    """Logits (B,) of raw windows, in evaluation mode, on the model's device. Every prediction is computed here."""
    was_training = model.training
    if was_training:  # switching visits every module, a sixth of the time of one prediction
        model.eval()
    device = model.pos_encoding.device
    parts = [
        model(torch.from_numpy(np.ascontiguousarray(windows_BTF[start : start + batch_size])).to(device)).double().cpu()
        for start in range(0, len(windows_BTF), batch_size)
    ]
    if was_training:
        model.train()
    return torch.cat(parts).numpy() if parts else np.empty(0, dtype=np.float64)


def probabilities(model: PatchTST, windows_BTF: NDArray[np.float32], *, batch_size: int = 1024) -> NDArray[np.float64]:
    """P(label = 1) (B,) of raw windows."""
    return sigmoid(logits(model, windows_BTF, batch_size=batch_size))


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits to probabilities, in float64."""
    result: NDArray[np.float64] = torch.sigmoid(torch.from_numpy(values)).numpy()
    return result


def folded_config(config: PatchTSTConfig) -> PatchTSTConfig:
    """The architecture of a model file: flattened patches in the place of weighted ones."""
    return replace(config, pooling="flatten") if config.pooling == "weighted" else config


@torch.no_grad()
def folded(model: PatchTST) -> PatchTST:
    """A weighted network as one that flattens its patches, the weights being factors in the layer after them.

    So a file of it is read by every version. Any other network is returned unchanged.
    """
    if model.config.pooling != "weighted":
        return model
    same, first = PatchTST(folded_config(model.config)), _after_pooling(model.config)
    state = dict(model.state_dict())
    del state["pool_N"]
    blocks_OGND = state[first].view(-1, model.config.num_series, 1, model.config.d_model)
    state[first] = (blocks_OGND * model.patch_weights()[:, None]).flatten(1)
    same.load_state_dict(state)
    return same.train(model.training)


def unfolded_state(state: dict[str, Tensor], config: PatchTSTConfig) -> dict[str, Tensor]:
    """The weights of the network `config` from those of its folded form: the inverse of `folded`."""
    if config.pooling != "weighted":
        return state
    first = _after_pooling(config)
    blocks_OGND = state[first].view(-1, config.num_series, config.num_patches, config.d_model)
    sum_OGD = blocks_OGND.sum(dim=2)
    weights_N = torch.einsum("ogd,ognd->n", sum_OGD, blocks_OGND) / sum_OGD.square().sum()
    return state | {first: sum_OGD.flatten(1), "pool_N": weights_N.clamp_min(MIN_PATCH_WEIGHT).log() / POOL_SPEED}


def _after_pooling(config: PatchTSTConfig) -> str:
    """The name of the weight of the first layer after the pooling."""
    return "head_hidden.weight" if config.head_hidden else "output_proj.weight"


def shapes(config: PatchTSTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the state dict, without allocating any."""
    with _Uninitialised(), torch.device("meta"):
        state: dict[str, Any] = PatchTST(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


class _Uninitialised(TorchFunctionMode):
    """Leaves new weights as they are: to draw some on the device meta, torch would import its compiler (2 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)
