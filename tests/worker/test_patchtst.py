"""The network is the paper's, and the engine's: same weights, same numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retrain_worker.domain.recipe import InputTransform
from retrain_worker.errors import ContractError
from retrain_worker.model import patchtst, presets
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig
from tests.known import known

SMALL: dict[str, Any] = {"d_model": 16, "ffn_dim": 24, "num_heads": 2, "head_hidden": 0, "pooling": "mean"}


def paper(**changes: Any) -> PatchTSTConfig:
    config = presets.paper(num_features=3, context_length=40, input_transform=InputTransform.INSTANCE, dropout=0.0)
    return dataclasses.replace(config, **(SMALL | changes))


def raw_windows(config: PatchTSTConfig, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    size = (count, config.context_length, config.num_features)
    return torch.randn(size, generator=generator) * 3.0 + 2.0


# ---------------------------------------------------------------- the paper, by way of transformers


def hugging_face(config: PatchTSTConfig) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    model: nn.Module = transformers.PatchTSTForClassification(
        transformers.PatchTSTConfig(
            num_input_channels=config.num_features,
            context_length=config.context_length,
            patch_length=config.patch_length,
            patch_stride=config.patch_stride,
            num_hidden_layers=config.num_layers,
            d_model=config.d_model,
            num_attention_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            norm_type=config.norm,
            pre_norm=config.is_pre_norm,
            activation_function=config.activation,
            pooling_type=config.pooling,
            num_targets=1,
            positional_encoding_type="random",
            use_cls_token=False,
            scaling="std" if config.input_transform == "instance" else None,
        )
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):  # statistics that matter
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model


def renamed(state: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Weights of transformers' module under our names."""
    ours = {
        "pos_encoding": state["model.encoder.positional_encoder.position_enc"][None],
        "output_proj.weight": state["head.linear.weight"],
        "output_proj.bias": state["head.linear.bias"],
    }
    for part in ("weight", "bias"):
        ours[f"patch_embedding.{part}"] = state[f"model.encoder.embedder.input_embedding.{part}"]
    for i in range(num_layers):
        there, here = f"model.encoder.layers.{i}.", f"transformer.layers.{i}."
        for part in ("weight", "bias"):
            parts = [state[f"{there}self_attn.{name}_proj.{part}"] for name in "qkv"]
            ours[f"{here}self_attn.in_proj_{part}"] = torch.cat(parts)
            ours[f"{here}self_attn.out_proj.{part}"] = state[f"{there}self_attn.out_proj.{part}"]
            ours[f"{here}linear1.{part}"] = state[f"{there}ff.0.{part}"]
            ours[f"{here}linear2.{part}"] = state[f"{there}ff.3.{part}"]
        for theirs, name in (("norm_sublayer1", "norm1"), ("norm_sublayer3", "norm2")):
            for key, value in state.items():
                if key.startswith(there + theirs):
                    ours[f"{here}{name}.{key.rsplit('.', 1)[1]}"] = value
    return ours


CONFIGURATIONS = [
    paper(pooling="flatten"),
    paper(pooling="weighted"),
    paper(),
    paper(norm="layernorm"),
    paper(is_pre_norm=True),
    paper(norm="layernorm", is_pre_norm=True, pooling="max"),
    paper(pooling="mean", patch_stride=16, activation="relu"),
    paper(pooling="max", patch_length=7, patch_stride=3),
    dataclasses.replace(paper(pooling="mean"), num_heads=8, num_layers=3),
    dataclasses.replace(paper(pooling="mean"), input_transform="standardise"),
]


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda config: f"{config.norm}-{config.pooling}")
def test_paper_preset_equals_transformers_with_the_same_weights(config: PatchTSTConfig, training: bool) -> None:
    pooled = config if config.pooling == "max" else dataclasses.replace(config, pooling="mean")
    theirs, ours = hugging_face(pooled), PatchTST(config)
    state = renamed(theirs.state_dict(), config.num_layers)
    if config.pooling == "flatten":  # transformers' classifier cannot flatten; its mean is a flat head of equal weights
        weight = state["output_proj.weight"].view(config.num_series, 1, config.d_model) / config.num_patches
        state["output_proj.weight"] = weight.expand(-1, config.num_patches, -1).reshape(1, -1)
    if config.pooling == "weighted":  # equal weights
        state["pool_N"] = torch.zeros(config.num_patches)
    if config.input_transform == "standardise":
        state |= {"input_mean": torch.zeros(3), "input_scale": torch.ones(3)}
    ours.load_state_dict(state, strict=True)
    raw = raw_windows(config)

    expected = theirs.train(training)(past_values=raw).prediction_logits[:, 0]

    torch.testing.assert_close(ours.train(training)(raw), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "flatten", "weighted"])
def test_every_row_of_every_feature_counts(pooling: str) -> None:
    model = PatchTST(paper(pooling=pooling, head_hidden=8)).eval()
    raw = raw_windows(model.config, count=1).requires_grad_()
    model(raw).sum().backward()
    assert (known(raw.grad)[0].abs() > 0).all()


@pytest.mark.parametrize("head_hidden", [0, 8])
def test_a_weighted_network_is_folded_into_a_flat_one_of_the_same_answers_and_back(head_hidden: int) -> None:
    torch.manual_seed(1)
    model = PatchTST(paper(pooling="weighted", head_hidden=head_hidden)).eval()
    with torch.no_grad():
        model.pool_N.copy_(torch.randn(model.config.num_patches))
    folded, raw = patchtst.folded(model), raw_windows(model.config)
    assert folded.config == dataclasses.replace(model.config, pooling="flatten")
    torch.testing.assert_close(folded(raw), model(raw))

    again = PatchTST(model.config).eval()
    again.load_state_dict(patchtst.unfolded_state(folded.state_dict(), model.config))
    torch.testing.assert_close(again.patch_weights(), model.patch_weights())
    torch.testing.assert_close(again(raw), model(raw))


def test_the_weights_of_patches_start_with_the_newest_as_the_largest() -> None:
    weights = PatchTST(paper(pooling="weighted")).patch_weights().detach().numpy()
    assert weights.sum() == pytest.approx(1.0)
    assert weights[1:] / weights[:-1] == pytest.approx(np.e)


def interplay(config: PatchTSTConfig) -> float:
    """How far the network is from a sum of functions of one feature each: a second difference across two features."""
    torch.manual_seed(1)
    model = PatchTST(config).eval()
    low, high = raw_windows(config, count=1), -raw_windows(config, count=1)
    masks = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=torch.bool)
    none, first, second, both = model.network(torch.where(masks[:, None, :], high, low)).tolist()
    return float(abs(both - first - second + none))


def test_only_a_hidden_layer_in_the_head_sees_the_interplay_of_features() -> None:
    assert interplay(paper()) < 1e-6
    assert interplay(paper(head_hidden=8)) > 1e-4


# ---------------------------------------------------------------- the engine


class EngineNetwork(nn.Module):
    """The preset `engine` of docs/reference/model-file.md, built from torch's own modules."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(16 * 8, 128)
        self.pos_encoding = nn.Parameter(torch.randn(1, 8, 128))
        layer = nn.TransformerEncoderLayer(
            d_model=128, nhead=4, dim_feedforward=512, dropout=0.1, activation="relu", batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, num_layers=3, enable_nested_tensor=False)
        self.output_proj = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 8, 16 * 8)
        x = self.transformer(self.patch_embedding(x) + self.pos_encoding)
        answers: Tensor = self.output_proj(x.mean(dim=1)).squeeze(-1)
        return answers


@pytest.mark.parametrize("num_features", [4, 8])
def test_engine_preset_equals_a_plain_transformer_encoder(num_features: int) -> None:
    ours = PatchTST(presets.engine(num_features=num_features)).eval()
    theirs = EngineNetwork().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    raw = raw_windows(ours.config)
    low, high = raw.amin(1, keepdim=True), raw.amax(1, keepdim=True)
    seen_by_the_engine = (raw - low) / (high - low + 1e-8)
    if num_features == 4:
        seen_by_the_engine = torch.cat([seen_by_the_engine, seen_by_the_engine], dim=2)

    torch.testing.assert_close(ours(raw), theirs(seen_by_the_engine), atol=1e-6, rtol=0)


def test_engine_preset_has_the_names_shapes_and_size_of_the_contract() -> None:
    config = presets.engine(num_features=4)
    expected = {name: tuple(tensor.shape) for name, tensor in EngineNetwork().state_dict().items()}
    assert patchtst.shapes(config) == expected
    assert sum(tensor.numel() for tensor in PatchTST(config).parameters()) == 612_481


@pytest.mark.parametrize("num_features", [1, 5, 23])
def test_engine_preset_refuses_other_widths_and_names_the_setting(num_features: int) -> None:
    with pytest.raises(ContractError, match="FEATURE_NAMES"):
        presets.engine(num_features=num_features)


# ---------------------------------------------------------------- input transforms


def test_standardise_gives_mean_zero_std_one_and_kills_a_constant_feature() -> None:
    rows = np.random.default_rng(1).normal([50.0, 1e-3, 0.0], [20.0, 1e-4, 0.0], (5000, 3)).astype(np.float32)
    rows[:, 2] = 0.1
    model = PatchTST(dataclasses.replace(paper(), input_transform="standardise"))
    model.standardise_on(rows)

    seen = model.transform(torch.from_numpy(rows)[None])[0]

    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("transform", ["standardise", "instance", "minmax"])
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_every_transform_is_finite_on_huge_and_constant_windows(transform: str, scale: float) -> None:
    rows = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32) * np.float32(scale)
    rows[:, 1] = 7.0
    model = PatchTST(dataclasses.replace(paper(), input_transform=transform))
    if transform == "standardise":
        model.standardise_on(rows)

    seen = model.transform(torch.from_numpy(rows[:40])[None])[0]

    assert torch.isfinite(seen).all()
    assert seen[:, 1].std() == 0
    assert seen[:, 0].std() > 0.1


def test_standardising_makes_the_unit_of_a_feature_irrelevant() -> None:
    rows = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    units = np.array([1e-6, 1.0, 1e9], dtype=np.float32)
    models = [PatchTST(dataclasses.replace(paper(), input_transform="standardise")) for _ in range(2)]
    for model, scale in zip(models, (np.ones_like(units), units), strict=True):
        model.standardise_on(rows * scale)
    windows = rows[:40][None]
    first = models[0].transform(torch.from_numpy(windows))
    second = models[1].transform(torch.from_numpy(windows * units))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_probabilities_do_not_depend_on_the_batch() -> None:
    model = PatchTST(paper())
    windows = raw_windows(model.config, count=37).numpy()
    one_by_one = patchtst.probabilities(model, windows, batch_size=1)
    together = patchtst.probabilities(model, windows)
    np.testing.assert_allclose(one_by_one, together, atol=1e-6)
    assert together.shape == (37,)
    assert model.training


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_length": 8},
        {"num_heads": 3},
        {"norm": "none"},
        {"pooling": "last"},
        {"d_model": 10**9},
        {"num_layers": 10_000},
        {"input_transform": "auto"},
    ],
)
def test_a_config_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        dataclasses.replace(paper(), **wrong)
