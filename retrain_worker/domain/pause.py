"""A pause: no run promotes its candidate until an operator resumes, or the time of the pause is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from retrain_worker.domain.host_names import command


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Who has paused promotions, why, and until when."""

    by: str
    reason: str
    since: datetime
    #: None: until `retrain-worker resume`
    until: datetime | None = None

    def is_over(self, at: datetime) -> bool:
        """Whether its time has passed."""
        return self.until is not None and at >= self.until

    @property
    def message(self) -> str:
        """One line for log, status and outcome."""
        end = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else f"until `{command()} resume`"
        return f"promotions are paused {end} ({self.by}: {self.reason})"
