"""What one tick of a stage leads to: the run as it is afterwards, what to store with it, and one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retrain_worker.domain.events import Event
from retrain_worker.domain.lifecycle import Deployment, Run
from retrain_worker.domain.slot_request import SlotRequest


@dataclass(frozen=True, kw_only=True)
class Step:
    """The answer of a stage. `run` is the same object when nothing changed: then nothing is stored."""

    run: Run
    #: the log line, the STATUS=, and what tests assert on
    message: str
    events: tuple[Event, ...] = ()
    deployment: Deployment | None = None
    #: what this run wants done to the slot
    request: SlotRequest | None = None
    watermark_path: Path | None = None
    #: whether it was stored: something has moved, nobody only waited
    is_move: bool = False
    #: whether its outcome became known by it: the run ended, or went on probation
    is_end: bool = False
