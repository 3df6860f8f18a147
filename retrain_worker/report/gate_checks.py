"""Each gate as one or two numbers against their limits, to be set beside each other or drawn.

Nothing is decided here: whether a gate passed, its own result says. A gate that this module does not know is shown
without numbers; its sentence says what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from retrain_worker.report.formatting import NOTHING, number, share, signed

Show = Callable[[object], str]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measurement, the limits it must lie within, and the scale on which both are drawn."""

    name: str
    #: None: not measured
    value: float | None
    #: at least, at most; None = no such limit
    low: float | None = None
    high: float | None = None
    scale: tuple[float, float] = (0.0, 1.0)
    #: the limit itself does not do
    is_strict: bool = False
    show: Show = number

    @property
    def measured(self) -> str:
        """Like `std 0.302`."""
        return f"{self.name} {self.show(self.value)}"

    @property
    def required(self) -> str:
        """Like `≥ 0.050`, `< 25 %`, `55 % to 85 %`."""
        if self.low is not None and self.high is not None:
            return f"{self.show(self.low)} to {self.show(self.high)}"
        if self.low is not None:
            return f"{'>' if self.is_strict else '≥'} {self.show(self.low)}"
        return f"{'<' if self.is_strict else '≤'} {self.show(self.high)}"

    @property
    def is_within(self) -> bool:
        """Whether the number lies inside its limits."""
        value, low, high = self.value, self.low, self.high
        if value is None or (self.is_strict and value in (low, high)):
            return False
        return (low is None or value >= low) and (high is None or value <= high)


def checks_of(gate: Mapping[str, Any]) -> tuple[Check, ...]:
    """The checks of a gate as stored with a verdict (domain.gates.Gate as a mapping)."""
    make = _CHECKS.get(str(gate.get("name")))
    measured, thresholds = gate.get("measurements") or {}, gate.get("thresholds") or {}
    return make(measured, thresholds) if make and measured else ()


def _contract(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    tolerance = required["canary_tolerance"]
    return (
        Check(
            name="canary error",
            value=measured["canary_max_error"],
            high=tolerance,
            scale=(0.0, 2 * tolerance),
            show=_tiny,
        ),
        Check(
            name="constant inputs",
            value=measured["constant_input_share"],
            high=required["max_constant_input_share"],
            show=share,
        ),
    )


def _action_diversity(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    first, second = [*sorted(measured["actions"].values(), reverse=True), 0.0, 0.0][:2]
    return (
        Check(name="commonest action", value=first, high=required["max_action_share"], show=share),
        Check(name="second", value=second, low=required["min_action_share"], show=share),
    )


def _confidence_spread(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    return (
        Check(name="std", value=measured["p_std"], low=required["min_spread_std"], scale=(0.0, 0.5)),
        Check(name="P90 - P10", value=measured["p10_p90"], low=required["min_spread_p10_p90"]),
    )


def _agreement(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    return (
        Check(name="same action", value=measured["share"], low=required["min"], high=required["max"], show=share),
        Check(name="opposed", value=measured["opposed"], high=required["max_opposition"], is_strict=True, show=share),
    )


def _calibration(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    alone, together = measured.get("confidence_slope_high"), measured.get("pooled_confidence_slope_high")
    earned = {} if alone is None else {"earned confidence surely under": alone}
    # the backtest folds' word counts only where the holdout's own estimate agrees
    if earned and together is not None and measured["confidence_slope"] < required["min_confidence_slope"]:
        earned["the same with backtest folds"] = together
    return (
        Check(name="ECE", value=measured["ece"], high=required["ece_limit"], scale=(0.0, 0.2)),
        Check(
            name="worst fall z",
            value=measured["worst_fall_z"],
            high=required["worst_fall_z"],
            scale=(-4.0, 4.0),
            show=_one_digit,
        ),
        *(
            Check(name=name, value=value, low=required["min_confidence_slope"], scale=(0.0, 2.0))
            for name, value in earned.items()
        ),
    )


def _skill(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    newest = (
        [
            Check(
                name="AUC, holdout alone, surely over",
                value=measured["newest_auc_low"],
                low=required["auc_low"],
                scale=(0.3, 1.0),
                is_strict=True,
            )
        ]
        if "newest_auc_low" in measured
        else []
    )
    return (
        *newest,
        Check(
            name="AUC, with backtest folds, surely over" if newest else "AUC surely over",
            value=measured["auc_low"],
            low=required["auc_low"],
            scale=(0.3, 1.0),
            is_strict=True,
        ),
        Check(
            name="log loss gain surely over",
            value=measured["log_loss_gain_low"],
            low=required["log_loss_gain_low"],
            scale=(-0.15, 0.15),
            is_strict=True,
            show=signed,
        ),
    )


def _incumbent(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    return (
        Check(
            name="log loss gain surely over",
            value=measured["log_loss_gain_low"],
            low=-required["margin"],
            scale=(-0.15, 0.15),
            show=signed,
        ),
    )


def _stability(measured: Mapping[str, Any], required: Mapping[str, Any]) -> tuple[Check, ...]:
    judged = [part for part in measured.values() if part["n"] >= required["min_slice_rows"]]
    bounds = [part["auc_high"] for part in judged if part["auc_high"] is not None]
    shares = [max(part["actions"].values()) for part in judged if part["actions"]]
    return (
        Check(name="weakest slice's AUC surely under", value=min(bounds, default=None), low=required["auc_high"]),
        Check(name="one action in a slice", value=max(shares, default=None), high=1.0, is_strict=True, show=share),
    )


def _tiny(value: object) -> str:
    return f"{value:.0e}" if isinstance(value, float) else NOTHING


def _one_digit(value: object) -> str:
    return number(value, 1)


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Check, ...]]] = {
    "contract": _contract,
    "action diversity": _action_diversity,
    "confidence spread": _confidence_spread,
    "agreement": _agreement,
    "calibration": _calibration,
    "skill": _skill,
    "incumbent": _incumbent,
    "stability": _stability,
}
