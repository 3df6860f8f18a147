"""Numbers and text from outside, as they are shown. A dash: not measured."""

from __future__ import annotations

import math

from retrain_worker.domain.alpha_spending import AlphaSpending
from retrain_worker.domain.printable import printable

#: for what was not measured, or is not a number
NOTHING = "—"
_LONGEST = 4096


def plain(text: object) -> str:
    """One printable line of bounded length."""
    line = printable(text)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def number(value: object, digits: int = 3) -> str:
    """Like `0.820`."""
    return f"{value:.{digits}f}" if _is_number(value) else NOTHING


def signed(value: object, digits: int = 3) -> str:
    """Like `+0.085`."""
    return f"{value:+.{digits}f}" if _is_number(value) else NOTHING


def count(value: object) -> str:
    """Like `6,060`."""
    return f"{value:,.0f}" if _is_number(value) else NOTHING


def share(value: object) -> str:
    """Like `53 %`."""
    return f"{value:.0%}".replace("%", " %") if _is_number(value) else NOTHING


def spent(spending: AlphaSpending, *, is_spent: bool = True) -> str:
    """The error probability of a decision, as one line."""
    verb = "spent on" if is_spent else "available for"
    since = f"{spending.since:%Y-%m-%d}"
    return f"error probability {spending.alpha:.2g} {verb} decision {spending.num_decisions} since {since}"


def duration(value: object) -> str:
    """Like `24 ms`, `1.1 s`, `12 s`, `2 min 11 s`."""
    if not _is_number(value):
        return NOTHING
    seconds = float(value)  # type: ignore[arg-type]
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 119.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60} s"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
