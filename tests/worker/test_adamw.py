"""The optimiser is torch's, bit by bit, also after a state was restored."""

from __future__ import annotations

import torch

from retrain_worker.worker.training.adamw import AdamW


def test_steps_are_those_of_torch_also_from_its_state() -> None:
    torch.manual_seed(1)
    ours, theirs = [[torch.nn.Parameter(torch.full((5, 3), 2.0)), torch.nn.Parameter(torch.ones(7))] for _ in range(2)]
    optimiser, reference = AdamW(ours, weight_decay=0.01), torch.optim.AdamW(theirs, weight_decay=0.01, fused=True)
    for number in range(6):
        if number == 3:
            optimiser = AdamW(ours, weight_decay=0.01)
            optimiser.load_state_dict(reference.state_dict())
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        reference.param_groups[0]["lr"] = 0.1 / (number + 1)
        optimiser.step(0.1 / (number + 1))
        reference.step()
        assert all(map(torch.equal, ours, theirs)), number
