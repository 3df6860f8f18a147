"""Calibration: a temperature and a bias fitted on the validation part, folded into the last layer.

Temperature alone (Guo et al., ICML 2017, arXiv 1706.04599) keeps the sign of every logit. The training part is balanced
by undersampling, which subtracts the log odds of the prior from every logit, so P(WIN) would stay biased. The bias
corrects this: its prior is normal with standard deviation BIAS_DRIFT around the value that the unbalanced training part
implies, and the validation part updates it. That part is smaller and its neighbouring outcomes are correlated, so its
evidence is weighted by its effective number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special

from retrain_worker.model.patchtst import PatchTST, sigmoid
from retrain_worker.worker import statistics
from retrain_worker.worker.data.samples import Samples

#: bounds of 1 / temperature. Not negative: a model with the wrong sign must stay wrong, not be inverted
SHARPNESS = (0.05, 20.0)
#: bounds of the bias in logits
BIAS = (-10.0, 10.0)
#: std, in logits, of the drift of the odds from the training part to what comes after it
BIAS_DRIFT = 0.1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """logit -> logit / temperature + bias."""

    temperature: float
    bias: float

    def apply(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated logits."""
        return logits / self.temperature + self.bias


def fit(
    logits: NDArray[np.float64], labels: NDArray[np.int8], *, expected_bias: float = 0.0, effect: float = 1.0
) -> Calibration:
    """The maximum-likelihood calibration of `labels` (N,) 0/1 given `logits` (N,): a convex problem of two numbers.

    `expected_bias` is the mean of the bias's prior (see `fit_bias`); `effect` is the design effect of the rows, by
    which the weight of their evidence is divided.
    """
    is_win = labels == 1
    stiffness = effect / (len(labels) * BIAS_DRIFT**2)

    def loss_and_gradient(scale_and_bias: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = scale_and_bias[0] * logits + scale_and_bias[1]
        residual = special.expit(z) - is_win
        drift = scale_and_bias[1] - expected_bias
        loss = np.mean(np.logaddexp(0.0, z) - is_win * z) + 0.5 * stiffness * drift**2
        return float(loss), np.array([np.mean(residual * logits), np.mean(residual) + stiffness * drift])

    found = optimize.minimize(
        loss_and_gradient,
        np.array([1.0, expected_bias]),
        jac=True,
        method="L-BFGS-B",
        bounds=[SHARPNESS, BIAS],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    return Calibration(temperature=float(1.0 / found.x[0]), bias=float(found.x[1]))


def fit_on(logits: NDArray[np.float64], validation: Samples, *, expected_bias: float) -> Calibration:
    """The calibration of `logits` (N,) of the validation part, whose rows count by their design effect."""
    effect = statistics.design_effect(validation.labels.astype(np.int64), sigmoid(logits + expected_bias))
    return fit(logits, validation.labels, expected_bias=expected_bias, effect=effect)


def fit_bias(logits: NDArray[np.float64], labels: NDArray[np.int8]) -> float:
    """The bias that makes the mean probability of `logits` (N,) the hit rate of `labels` (N,) of both classes."""
    hit_rate = float(np.mean(labels == 1))
    found: float = optimize.brentq(lambda bias: float(np.mean(special.expit(logits + bias))) - hit_rate, -50.0, 50.0)
    return found


@torch.no_grad()
def fold(model: PatchTST, calibration: Calibration) -> None:
    """Fold the calibration into the last layer of `model`."""
    last = model.output_proj
    weight, bias = last.weight.double(), last.bias.double()
    last.weight.copy_(weight / calibration.temperature)
    last.bias.copy_(bias / calibration.temperature + calibration.bias)
