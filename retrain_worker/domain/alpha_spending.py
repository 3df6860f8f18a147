"""Alpha spending: the error probability of each daily decision, so that the false promotions a year stay bounded.

Alpha wealth grows by `false_promotions_per_year` a year, and each decision spends a tenth of it. A decision at level
alpha promotes a model without skill with probability alpha at most, so the expected number of such promotions in T
years is at most FULL * skill_alpha + T * false_promotions_per_year, whatever the dependence between decisions whose
holdouts overlap (linearity of expectation). The wealth starts at its limit, FULL decisions at skill_alpha. Daily
decisions settle at false_promotions_per_year / 365 each; more frequent ones get less. A convergent series (Lan and
DeMets, Biometrika 70 (1983) 659) would vanish with the years; growing wealth does not (alpha-investing, Foster and
Stine, J. R. Stat. Soc. B 70 (2008) 429; Ramdas et al., NIPS 2017, arXiv 1710.00499).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

#: share of the wealth that one decision spends
SHARE = 0.1
#: largest wealth, in decisions at skill_alpha
FULL = 1.0 / SHARE
_YEAR_SECONDS = 365.25 * 86400.0


@dataclass(frozen=True, kw_only=True)
class AlphaSpending:
    """What one decision spent, and what was left."""

    #: the error probability of this decision
    alpha: float
    #: wealth after it
    left: float
    #: decisions so far, this one included
    num_decisions: int
    at: datetime
    #: the first decision that was counted
    since: datetime


def spend(last: AlphaSpending | None, *, at: datetime, skill_alpha: float, per_year: float) -> AlphaSpending:
    """The next decision's share after `last`. `per_year` 0 turns the account off: every decision has `skill_alpha`."""
    full = FULL * skill_alpha
    wealth = full
    if last is not None and per_year > 0:
        years = max(0.0, (at - last.at).total_seconds()) / _YEAR_SECONDS
        wealth = min(full, last.left + years * per_year)
    alpha = SHARE * wealth
    return AlphaSpending(
        alpha=alpha,
        left=wealth - alpha,
        num_decisions=last.num_decisions + 1 if last else 1,
        at=at,
        since=last.since if last else at,
    )
