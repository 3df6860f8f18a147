"""The fast path is the plain module: same outputs, same gradients, same weights after many steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from retrain_worker.domain.recipe import InputTransform
from retrain_worker.model import presets
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig
from retrain_worker.worker.training import fast_path
from retrain_worker.worker.training.fast_path import FastPath, PlainPath, path_for
from tests.known import known

SMALL = PatchTSTConfig(
    num_features=4,
    context_length=41,
    patch_length=8,
    patch_stride=4,
    mixes_channels=False,
    d_model=32,
    num_layers=2,
    num_heads=4,
    ffn_dim=48,
    norm="batchnorm",
    is_pre_norm=False,
    activation="gelu",
    pooling="mean",
    head_hidden=16,
    input_transform="instance",
    dropout=0.0,
)
CONFIGS = {
    "paper": presets.paper(num_features=4, context_length=64, input_transform=InputTransform.STANDARDISE, dropout=0.0),
    "engine": presets.engine(num_features=4, dropout=0.0),
    "small": SMALL,
    "layer norm": dataclasses.replace(SMALL, norm="layernorm"),
    "pre-norm": dataclasses.replace(SMALL, is_pre_norm=True),
    "relu, max": dataclasses.replace(SMALL, activation="relu", pooling="max"),
    "weighted": dataclasses.replace(SMALL, pooling="weighted"),
    "mixed, flattened": dataclasses.replace(SMALL, mixes_channels=True, pooling="flatten", head_hidden=0),
}


def twins(config: PatchTSTConfig) -> tuple[PatchTST, PatchTST]:
    """Two models of the same random weights, biases and norms included."""
    torch.manual_seed(1)
    first, second = PatchTST(config), PatchTST(config)
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.dim() == 1:  # biases and norms start as 0 and 1, which would hide much
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    second.load_state_dict(first.state_dict())
    return first, second


def training_set(config: PatchTSTConfig, *, windows: int = 11, seed: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(windows, config.context_length, config.num_features, generator=generator) * 2 + 1
    return raw, torch.randint(0, 2, (windows,), generator=generator).float()


def learn(path: PlainPath | FastPath, raw: Tensor, aims: Tensor) -> Tensor:
    logits = path(raw)
    functional.binary_cross_entropy_with_logits(logits, aims).backward()
    return logits.detach()


def assert_equal_gradients(plain: nn.Module, fast: nn.Module) -> None:
    longest = max(float(parameter.grad.abs().max()) for parameter in plain.parameters())
    for (name, parameter), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        error = float((known(other.grad) - known(parameter.grad)).abs().max())
        assert error < 3e-6 * max(1.0, longest), (name, error, longest)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_are_those_of_the_plain_module(name: str, threads: int) -> None:
    plain, fast = twins(CONFIGS[name])
    raw, aims = training_set(CONFIGS[name])
    expected = learn(PlainPath(plain), raw, aims)
    with FastPath(fast, threads=threads) as path:
        learn(path, *training_set(CONFIGS[name], windows=7))  # what another batch left behind does not matter
        fast.load_state_dict(plain.state_dict())
        found = learn(path, raw, aims)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert_equal_gradients(plain, fast)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["paper", "engine", "pre-norm"])
def test_many_steps_end_in_the_weights_of_the_plain_module(name: str, threads: int) -> None:
    models = twins(CONFIGS[name])
    with FastPath(models[1], threads=threads) as fast:
        for path in (PlainPath(models[0]), fast):
            # plain steps downhill: Adam would blow up rounding where the true gradient is 0, as before a batch norm
            optimiser = torch.optim.SGD(path.parameters, lr=0.05, momentum=0.9, weight_decay=1e-2)
            for step in range(12):
                learn(path, *training_set(CONFIGS[name], windows=32, seed=step))
                path.clip_gradients(0.5)
                optimiser.step()
    start = twins(CONFIGS[name])[0].state_dict()
    for (key, expected), found in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        error = float((found - expected).abs().max())
        assert error < 5e-5, (key, error)
    moved = models[0].state_dict()["output_proj.weight"] - start["output_proj.weight"]
    assert moved.abs().max() > 0.01


@pytest.mark.parametrize("name", ["paper", "engine", "pre-norm"])
def test_dropout_is_that_of_the_plain_module_with_other_masks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIGS[name], dropout=0.3, head_hidden=0)
    plain, fast = twins(config)
    raw, aims = training_set(config)
    masks: list[Tensor] = []
    drawn = fast_path._Dropout._new_mask

    def kept(self: Any) -> Tensor:
        masks.append(drawn(self).clone())
        return masks[-1]

    monkeypatch.setattr(fast_path._Dropout, "_new_mask", kept)
    with FastPath(fast) as path:
        found = learn(path, raw, aims)
    assert len(masks) == 4 * config.num_layers

    given = iter(masks)
    monkeypatch.setattr(functional, "dropout", lambda x, _p, _training: x * next(given).view_as(x))
    expected = learn(PlainPath(plain), raw, aims)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert_equal_gradients(plain, fast)


def test_masks_keep_the_share_they_should_and_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor] = []
    drawn = fast_path._Dropout._new_mask

    def kept(self: Any) -> Tensor:
        masks.append(drawn(self).clone())
        return masks[-1]

    monkeypatch.setattr(fast_path._Dropout, "_new_mask", kept)
    config = dataclasses.replace(CONFIGS["engine"], dropout=0.2)
    with FastPath(PatchTST(config)) as path:
        for _ in range(2):
            path(training_set(config, windows=64)[0])
    for mask in masks:
        share = (mask > 0).float().mean()
        assert mask.unique().tolist() == pytest.approx([0.0, 256 / (256 - 51)])
        assert abs(float(share) - (1 - 51 / 256)) < 5 * (0.16 / mask.numel()) ** 0.5
    assert not torch.equal(masks[0], masks[len(masks) // 2])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_bits_whatever_the_threads_do(threads: int) -> None:
    config = dataclasses.replace(CONFIGS["paper"], dropout=0.4)
    gradients = []
    for _ in range(3):
        torch.manual_seed(4)
        with FastPath(PatchTST(config), threads=threads) as path:
            for step in range(3):
                learn(path, *training_set(config, windows=16, seed=step))
            gradients.append(torch.cat([known(each.grad).flatten() for each in path.parameters]))
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_a_shard_that_fails_fails_the_step_and_does_not_hang_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = fast_path._Shard.forward

    def broken(self: Any) -> Tensor:
        if not self.is_first:
            raise MemoryError("no room")
        return forward(self)

    monkeypatch.setattr(fast_path._Shard, "forward", broken)
    with FastPath(PatchTST(SMALL), threads=2) as path, pytest.raises((MemoryError, RuntimeError)):
        path(training_set(SMALL)[0])


def test_a_model_on_the_cpu_is_trained_on_the_fast_path() -> None:
    assert isinstance(path_for(PatchTST(SMALL), threads=1), FastPath)
    with torch.device("meta"):
        assert isinstance(path_for(PatchTST(SMALL), threads=1), PlainPath)
