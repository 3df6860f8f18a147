"""Masked-patch pre-training of the encoder on windows without outcomes.

The paper's self-supervised mode (section 3.2 of arXiv 2211.14730): mask some patches, predict their content, squared
error on the masked ones only. Rows whose outcome is open are used as well. Two differences from the paper: patches may
overlap, so the rows of a masked patch are masked in its neighbours, too; and masked values are the mean of the window's
other rows, because 0 is not neutral after min-max.

The same windows, configuration and seed give the same bits, also after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrain_worker.domain.recipe import Recipe
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.worker.data.samples import windows
from retrain_worker.worker.stop_signal import StoppedError

State = dict[str, Any]

#: share of masked rows, as in the paper
MASKED_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class UnlabelledWindows:
    """The windows of a pre-training."""

    #: (N, F) of the whole snapshot
    features: NDArray[np.float32]
    #: (K,) rows at which a window ends, all before the cut-off of the training part
    ends: NDArray[np.int64]


def pretrain(
    model: PatchTST,
    unlabelled: UnlabelledWindows,
    recipe: Recipe,
    *,
    seed: int,
    learning_rate: float,
    saved: State | None,
    after_epoch: Callable[[int, float, State], None],
    stopping: Callable[[], bool],
) -> dict[str, Tensor]:
    """Weights of `model` after `recipe.pretrain_epochs`; its head is unchanged.

    `model` is changed. `saved` is a state that an earlier `after_epoch` (epoch, mean loss, state) received.
    Raises StoppedError when `stopping()` is true.
    """
    torch.manual_seed(seed)
    task = _Task(model)
    optimiser = torch.optim.AdamW(task.parameters(), lr=learning_rate, weight_decay=recipe.weight_decay, fused=True)
    done = 0
    if saved is not None:
        done = int(saved["epochs"])
        task.load_state_dict(saved["task"], strict=True)
        optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["rng"])
    steps = max(1, len(unlabelled.ends) // recipe.batch_size)
    for number in range(done + 1, recipe.pretrain_epochs + 1):
        task.train()
        order = np.random.default_rng([seed, number]).permutation(unlabelled.ends)
        total = torch.zeros((), device=model.pos_encoding.device)
        for index in range(steps):
            if stopping():
                raise StoppedError(
                    f"pre-training was stopped in epoch {number}; it can be resumed after epoch {number - 1}"
                )
            ends = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
            raw = torch.from_numpy(windows(unlabelled.features, ends, model.config.context_length))
            optimiser.zero_grad(set_to_none=True)
            loss = task(raw.to(model.pos_encoding.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), recipe.max_grad_norm)
            optimiser.step()
            total += loss.detach()
        state = {
            "epochs": number,
            "task": task.state_dict(),
            "optimiser": optimiser.state_dict(),
            "rng": torch.get_rng_state(),
        }
        after_epoch(number, float(total) / steps, state)
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


class _Task(nn.Module):
    """The model with a layer that predicts the content of a patch."""

    #: (N, T), 1 where a patch covers a row
    covers: Tensor

    def __init__(self, model: PatchTST) -> None:
        super().__init__()
        config = model.config
        self.model = model
        self.prediction = nn.Linear(config.d_model, config.patch_width)
        covers = torch.zeros(config.num_patches, config.context_length)
        last = config.context_length - config.patch_length
        for number in range(config.num_patches):
            start = last - config.patch_stride * (config.num_patches - 1 - number)
            covers[number, start : start + config.patch_length] = 1.0
        self.register_buffer("covers", covers, persistent=False)
        #: a row is masked when any patch that covers it is
        overlap = max(1, round(config.patch_length / config.patch_stride))
        self.share = 1.0 - (1.0 - MASKED_SHARE) ** (1.0 / overlap)

    def forward(self, raw_BTF: Tensor) -> Tensor:
        """Mean squared error over the masked patches, in units of the windows' own variance."""
        config = self.model.config
        x_BTC = self.model.transform(raw_BTF)
        is_masked_BN = torch.rand(len(raw_BTF), config.num_patches, device=raw_BTF.device) < self.share
        is_masked_BN[:, 0] |= ~is_masked_BN.any(dim=1)
        visible_BT1 = ((is_masked_BN.float() @ self.covers) == 0).float().unsqueeze(-1)
        mean_B1C = (x_BTC * visible_BT1).sum(1, keepdim=True) / visible_BT1.sum(1, keepdim=True).clamp_min(1.0)
        predicted_SNP = self.prediction(self.model.encoded(torch.where(visible_BT1 > 0, x_BTC, mean_B1C)))
        error_SN = (predicted_SNP - self.model.patches(x_BTC)).square().mean(dim=-1)
        is_masked_SN = is_masked_BN.repeat_interleave(config.num_series, dim=0)
        loss: Tensor = error_SN[is_masked_SN].mean() / x_BTC.var().clamp_min(1e-12)
        return loss
