"""Weight decay on the high frequencies of the patch embedding, which smooths its filters over the rows of a patch.

The weights of the patch embedding are a filter over the rows of a patch. In the cosine basis over these rows, the k-th
of P components decays by `strength * k / (P - 1)` per unit of learning rate at every step, in addition to the ordinary
weight decay. It corresponds to the smoothing penalty of a spline.
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
        """Apply the decay of one step at the learning rate `rate`."""
        if self._strength:
            config = self._model.config
            filter_DPC = self._model.patch_embedding.weight.view(config.d_model, config.patch_length, -1)
            filter_DPC.copy_(self._kept(rate) @ filter_DPC)

    def _kept(self, rate: float) -> Tensor:
        """(P, P)."""
        kept: Tensor = self._cosines.T @ (torch.exp(-rate * self._strength * self._speed)[:, None] * self._cosines)
        return kept
