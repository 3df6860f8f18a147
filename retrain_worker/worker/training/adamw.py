"""AdamW by torch's functional interface: torch.optim.AdamW would import torch's compiler, 1.2 s of processor time.

Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101, with torch's default moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class AdamW:
    """Bit for bit torch.optim.AdamW(parameters, weight_decay=..., fused=True), and its form of a state."""

    def __init__(self, parameters: Sequence[Tensor], *, weight_decay: float) -> None:
        self._parameters, self._weight_decay = list(parameters), weight_decay
        self._state = [
            {
                "step": torch.zeros((), device=each.device),
                "exp_avg": torch.zeros_like(each, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(each, requires_grad=False),
            }
            for each in self._parameters
        ]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients, which every parameter must have."""
        adamw(
            self._parameters,
            [each.grad for each in self._parameters if each.grad is not None],
            [each["exp_avg"] for each in self._state],
            [each["exp_avg_sq"] for each in self._state],
            [],
            [each["step"] for each in self._state],
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=rate,
            weight_decay=self._weight_decay,
            eps=_EPSILON,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; the tensors are those of the optimiser."""
        return {"state": dict(enumerate(self._state))}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a state."""
        for own, theirs in zip(self._state, saved["state"].values(), strict=True):
            for name, tensor in own.items():
                tensor.copy_(theirs[name])
