"""The engine's answers that were counted so far, as the state database keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.domain.engine_answers import Tally

#: key of CountedAnswers in the state database
COUNTED = "serving_monitor"


@dataclass(frozen=True, kw_only=True)
class CountedAnswers:
    """Up to which entry of the stream the answers are counted, and the tally of them."""

    milliseconds: int
    sequence: int
    tally: Tally


def tally_in(store: StateDb) -> Tally:
    """The tally up to the last pass; an empty one where there is none, or it cannot be decoded."""
    known = store.recall(COUNTED, CountedAnswers)
    return known.tally if known else Tally()
