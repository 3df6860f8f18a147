"""A measurement of a gate beside its limits, with what is needed to show it as text or as a bullet chart."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number that must lie within its limits."""

    #: stable, also in the measurements of the gate
    name: str
    label: str
    #: None: not measured
    value: float | None
    #: None = no such limit
    low: float | None = None
    high: float | None = None
    #: True: a value equal to a limit does not meet it
    is_strict: bool = False
    #: format specification of the numbers (Python's, and D3's)
    format: str = ".3f"
    #: ends of the axis on which the numbers are drawn
    scale: tuple[float, float] = (0.0, 1.0)
    #: derived; False also for what is not measured, or not a number
    is_met: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        value, low, high = self.value, self.low, self.high
        is_within = value is not None and (low is None or value >= low) and (high is None or value <= high)
        object.__setattr__(self, "is_met", is_within and not (self.is_strict and value in (low, high)))

    @property
    def measured(self) -> str:
        """Like `std of P(WIN) 0.302`."""
        return f"{self.label} {self._text(self.value)}"

    @property
    def required(self) -> str:
        """Like `≥ 0.050`, `< 25 %`, `55 % to 85 %`."""
        if self.low is not None and self.high is not None:
            return f"{self._text(self.low)} to {self._text(self.high)}"
        if self.low is not None:
            return f"{'>' if self.is_strict else '≥'} {self._text(self.low)}"
        return f"{'<' if self.is_strict else '≤'} {self._text(self.high)}"

    def _text(self, value: float | None) -> str:
        return "—" if value is None else format(value, self.format).replace("%", " %")


def lower_bound(statistic: str, alpha: float) -> str:
    """The label of a bound with one-sided error probability `alpha`: `AUC, 99.9 % lower confidence bound`."""
    return f"{statistic}, {_level(alpha)} lower confidence bound"


def upper_bound(statistic: str, alpha: float) -> str:
    """As `lower_bound`."""
    return f"{statistic}, {_level(alpha)} upper confidence bound"


def _level(alpha: float) -> str:
    return f"{100 - Decimal(f'{100 * alpha:.2g}'):f} %"
