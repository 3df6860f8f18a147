"""Every threshold of the gates. Logged at start, stored with each verdict; see docs/reference/gates.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class GateProfile(StrEnum):
    """What action diversity and confidence spread are measured by."""

    #: the seed's rules: shares of BUY, SELL and HOLD, and a standard deviation that only strong models have
    SEED = "seed"
    #: shares around the prior, and the standard deviation of a calibrated model of AUC 0.55: for weak but real edges
    CALIBRATED = "calibrated"


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """The thresholds; each is the setting GATE_<NAME>, except AGREEMENT=required and CONSTANT_WINDOW."""

    profile: GateProfile = GateProfile.SEED
    #: rows below which a gate is undecided
    min_rows: int = 200
    #: largest share of one action where half of the outcomes are WIN (action_diversity.py)
    max_action_share: float = 0.70
    #: an action counts as used above this share; two must be
    min_action_share: float = 0.10
    min_std: float = 0.05
    min_p10_p90: float = 0.12
    #: True: the agreement gate counts; False: it is advisory
    agreement_required: bool = False
    min_agreement: float = 0.55
    max_agreement: float = 0.85
    #: above this, agreement is called borderline
    borderline_agreement: float = 0.75
    max_opposition: float = 0.25
    #: one-sided error probability of the skill bounds of one decision, at most (domain/alpha_spending.py)
    skill_alpha: float = 0.001
    #: promotions of a model without skill that daily decisions may cause a year, at most; 0: no account is kept
    false_promotions_per_year: float = 0.1
    #: one-sided error probability of the bound on the AUC of the holdout alone, for a decision at skill_alpha
    holdout_alpha: float = 0.003
    #: one-sided error probability of the bounds on the log loss gain over the constant prior, likewise
    gain_alpha: float = 0.01
    #: one-sided error probability of the ECE limit and of a drop of the hit rate
    calibration_alpha: float = 0.01
    #: one-sided error probability of "overconfident"
    slope_alpha: float = 0.05
    #: ECE beyond sampling error that is still called calibrated: the calibration itself was fitted on a finite part
    ece_tolerance: float = 0.03
    #: calibration slope below which the candidate is overconfident (1: calibrated)
    min_calibration_slope: float = 0.87
    #: log loss (nats per row) by which the candidate may be worse than the incumbent
    incumbent_margin: float = 0.01
    #: one-sided error probability of "worse than the incumbent"
    incumbent_alpha: float = 0.05
    #: log loss (nats per row) by which the candidate must be better than the incumbent, as a point estimate
    min_gain: float = 0.005
    #: rows below which a slice (symbol, half) is not judged
    min_slice_rows: int = 50
    #: one-sided error probability of "the sign of this slice is inverted"
    slice_alpha: float = 0.005
    #: largest difference between the recorded and the replayed canary probabilities
    canary_tolerance: float = 1e-5
    #: largest share of windows that reach the network as a constant
    max_constant_input_share: float = 0.5
    #: CONSTANT_WINDOW=hold: a model of the engine preset has no opinion of a window that repeats one row
    hold_on_constant_window: bool = True

    def spending(self, alpha: float) -> GatePolicy:
        """The policy of a decision that spends `alpha` of the account: all of its skill bounds are scaled with it."""
        share = alpha / self.skill_alpha
        return replace(
            self, skill_alpha=alpha, holdout_alpha=self.holdout_alpha * share, gain_alpha=self.gain_alpha * share
        )
