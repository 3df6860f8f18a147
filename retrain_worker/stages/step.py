"""The result of one tick of a stage: the run afterwards, what to store with it, and a message."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retrain_worker.domain.events import Event
from retrain_worker.domain.lifecycle import Deployment, Run
from retrain_worker.domain.slot_request import SlotRequest


@dataclass(frozen=True, kw_only=True)
class Step:
    """The result of a stage. `run` is the same object when nothing changed: then nothing is stored."""

    run: Run
    #: the log line
    message: str
    #: the part of the stage that is done, and the seconds that the rest will take; None: not known
    share: float | None = None
    seconds_left: float | None = None
    events: tuple[Event, ...] = ()
    deployment: Deployment | None = None
    #: the slot request of this run
    request: SlotRequest | None = None
    watermark_path: Path | None = None
    #: whether it only stores what an evaluation found, of which a trial has hundreds
    is_evaluation: bool = False
    #: whether something changed and is stored
    is_move: bool = False
    #: whether this step determined the outcome: the run ended, or its probation began
    is_end: bool = False

    @property
    def status(self) -> str:
        """STATUS=."""
        return self.message if self.seconds_left is None else f"{self.message}, about {self.seconds_left:.0f} s left"
