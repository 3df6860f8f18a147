"""The gates as cards with bullet charts: the measurement, its requirement, and the estimate that it is a bound of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from retrain_worker.domain.gates import Check, GateResult
from retrain_worker.report.formatting import plain
from retrain_worker.report.overview import BAD, GATE_TONES, GOOD, MARKS

#: pixels of the bullet chart from its first to its last place
_LEFT, _RIGHT = 6.0, 474.0
#: check -> the estimate in the measurements of its gate that the check is a bound of
_ESTIMATES = {
    "holdout_auc_low": "auc",
    "auc_low": "auc",
    "log_loss_gain_low": "log_loss_gain",
    "calibration_slope_high": "calibration_slope",
    "pooled_calibration_slope_high": "pooled_calibration_slope",
}


@dataclass(frozen=True, kw_only=True)
class Bullet:
    """A check, and where its parts are drawn."""

    tone: str
    measured: str
    required: str
    label: str
    #: the axis
    start: float
    width: float
    #: start and width of the required range
    allowed: tuple[float, float]
    limits: tuple[float, ...]
    value: float | None
    estimate: float | None
    #: the line between the two, or over an interval
    reach: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class GateCard:
    """A gate as it is shown."""

    name: str
    result: str
    tone: str
    mark: str
    counts: bool
    message: str
    checks: tuple[Bullet, ...]


def gate_cards(gates: Iterable[GateResult]) -> tuple[GateCard, ...]:
    """One card for each gate."""
    return tuple(
        GateCard(
            name=plain(gate.name),
            result=plain(gate.result),
            tone=GATE_TONES[gate.result],
            mark=MARKS[GATE_TONES[gate.result]],
            counts=gate.counts,
            message=plain(gate.detail),
            checks=tuple(_bullet(check, gate.measurements) for check in gate.checks),
        )
        for gate in gates
    )


def _bullet(check: Check, measurements: Mapping[str, Any]) -> Bullet:
    low, high = check.scale
    span = (high - low) or 1.0

    def across(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * min(max((value - low) / span, 0.0), 1.0), 1)

    first = across(low if check.low is None else check.low)
    last = across(high if check.high is None else check.high)
    estimate = _estimate(check, measurements)
    ends = (check.value, estimate) if estimate is not None else _interval(check, measurements)
    drawn = tuple(across(end) for end in ends if end is not None)
    measured, required = plain(check.measured), plain(check.required)
    more = "" if estimate is None else f" (estimate {format(estimate, check.format)})"
    return Bullet(
        tone=GOOD if check.is_met else BAD,
        measured=measured + more,
        required=required,
        label=f"{measured}{more}, required {required}",
        start=_LEFT,
        width=_RIGHT - _LEFT,
        allowed=(first, round(max(last - first, 1.0), 1)),
        limits=tuple(across(limit) for limit in (check.low, check.high) if limit is not None),
        value=None if check.value is None else across(check.value),
        estimate=None if estimate is None else across(estimate),
        reach=(min(drawn), max(drawn)) if len(drawn) == 2 else None,
    )


def _estimate(check: Check, measurements: Mapping[str, Any]) -> float | None:
    if check.name == "slice_auc_high":
        slices = measurements.get("slices")
        parts = slices if isinstance(slices, list | tuple) else ()
        found = [part.get("auc") for part in parts if isinstance(part, Mapping) and part.get("auc_high") == check.value]
        return _number(found[0]) if found else None
    name = _ESTIMATES.get(check.name)
    pooled = measurements.get("pooled")
    # a bound over the holdout and backtest folds is one of their pooled estimate
    if isinstance(pooled, Mapping) and check.name in ("auc_low", "log_loss_gain_low"):
        return _number(pooled.get(name))
    return _number(measurements.get(name)) if name else None


def _interval(check: Check, measurements: Mapping[str, Any]) -> tuple[float | None, float | None]:
    if check.name != "share":
        return None, None
    return _number(measurements.get("share_low")), _number(measurements.get("share_high"))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
