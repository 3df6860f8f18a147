"""What helps the engine's network learn from few rows does what it says, and only while training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from retrain_worker.domain.recipe import InputTransform
from retrain_worker.model import presets
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig
from retrain_worker.worker.training.smoothing import PatchSmoothing
from tests.worker.test_bundle import windows

ENGINE = presets.engine(num_features=4)
PAPER = presets.paper(num_features=4, context_length=64, input_transform=InputTransform.STANDARDISE)


def filters(model: PatchTST) -> torch.Tensor:
    config = model.config
    return model.patch_embedding.weight.detach().clone().view(config.d_model, config.patch_length, -1)


@pytest.mark.parametrize("config", [ENGINE, PAPER])
def test_smoothing_takes_from_fast_wiggles_and_leaves_the_mean(config: PatchTSTConfig) -> None:
    model = PatchTST(config)
    before = filters(model)
    PatchSmoothing(model, 10.0).step(0.1)
    after = filters(model)
    torch.testing.assert_close(after.mean(dim=1), before.mean(dim=1), atol=1e-6, rtol=0)
    assert after.diff(dim=1).abs().mean() < 0.6 * before.diff(dim=1).abs().mean()
    # the fastest cosine, by itself, loses what the formula says
    fastest = torch.cos(torch.pi * (torch.arange(16) + 0.5) * 15 / 16)
    with torch.no_grad():
        model.patch_embedding.weight.view_as(after).copy_(fastest[:, None].expand(*after.shape[1:]))
    PatchSmoothing(model, 10.0).step(0.1)
    torch.testing.assert_close(filters(model)[0, :, 0], fastest * np.exp(-1.0), atol=1e-5, rtol=0)


def test_no_smoothing_changes_no_bit() -> None:
    model = PatchTST(ENGINE)
    before = filters(model)
    PatchSmoothing(model, 0.0).step(0.1)
    assert torch.equal(filters(model), before)


def test_noise_disturbs_training_and_never_an_answer() -> None:
    config = dataclasses.replace(ENGINE, input_noise=0.1, dropout=0.0)
    model = PatchTST(config)
    raw = torch.from_numpy(windows(128))
    model.train()
    assert not torch.equal(model.transform(raw), model.transform(raw))
    model.eval()
    assert torch.equal(model.transform(raw), model.transform(raw))
    quiet = PatchTST(ENGINE)
    quiet.load_state_dict(model.state_dict())
    assert torch.equal(model(raw), quiet.eval()(raw))


def test_a_fresh_patch_embedding_is_centred_on_what_it_will_see() -> None:
    torch.manual_seed(1)
    model = PatchTST(ENGINE).eval()
    raw = torch.from_numpy(windows(128))
    with torch.no_grad():
        before = model.patch_embedding(model.patches(model.transform(raw)))
        model.centre_on(raw)
        after = model.patch_embedding(model.patches(model.transform(raw)))
    assert after.mean(dim=(0, 1)).abs().mean() < 0.3 * before.mean(dim=(0, 1)).abs().mean()
    assert after.std() > 2 * before.std(dim=(0, 1)).mean()
