"""A weight decay on fast wiggles within a patch: neighbouring rows are looked at alike unless the data insist.

The weights of the patch embedding are a filter over the rows of a patch. Written as a sum of cosines over these rows,
the k-th of P loses the share `strength * k / (P - 1)` of itself per unit of learning rate at every step, besides the
ordinary decay, which knows no order of rows. It is to a filter what a smoothing penalty is to a spline.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrain_worker.model.patchtst import PatchTST


class PatchSmoothing:
    """Applied after every step of the optimiser; `strength` 0 does nothing."""

    def __init__(self, model: PatchTST, strength: float) -> None:
        self._model, self._strength = model, strength
        rows = torch.arange(model.config.patch_length, dtype=torch.float32, device=model.pos_encoding.device)
        cosines = torch.cos(math.pi * (rows + 0.5) * rows[:, None] / len(rows))
        #: (P, P), the k-th row the k-th cosine
        self._cosines = cosines / cosines.norm(dim=1, keepdim=True)
        self._speed = rows / max(1, len(rows) - 1)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """What one step at the learning rate `rate` takes away."""
        if self._strength:
            config = self._model.config
            filter_DPC = self._model.patch_embedding.weight.view(config.d_model, config.patch_length, -1)
            filter_DPC.copy_(self._kept(rate) @ filter_DPC)

    def _kept(self, rate: float) -> Tensor:
        """(P, P)."""
        kept: Tensor = self._cosines.T @ (torch.exp(-rate * self._strength * self._speed)[:, None] * self._cosines)
        return kept
