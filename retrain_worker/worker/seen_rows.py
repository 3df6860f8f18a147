"""Which rows a model has seen: those of its own training, and those of every model that its weights descend from.

A model is judged only on rows that were decided after all of them (`until`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from retrain_worker import typed_json
from retrain_worker.domain.artifact import Manifest
from retrain_worker.domain.split_policy import Window
from retrain_worker.errors import MalformedError

_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class SeenRows:
    """Windows of decision times, disjoint, in time order."""

    windows: tuple[Window, ...]
    #: False: the file does not state them, so every row that was decided before it was written counts as seen
    is_known: bool = True

    @property
    def until(self) -> datetime:
        """The first decision time from which no row was seen."""
        return self.windows[-1].end


def seen_by(manifest: Manifest) -> SeenRows:
    """The rows that the model of this file has seen.

    `training.seen` states them. A file of before that key states the windows of its own training only, which are all of
    them unless it started from the weights of another model (`training.start`).
    """
    training = manifest.training
    stated: Any = training.get("seen")
    try:
        if stated is None and str(training.get("start", "scratch")).startswith("scratch"):
            own = training["windows"]
            stated = [{"start": own["train"]["start"], "end": own["validation"]["end"]}]
        windows = typed_json.convert(stated, tuple[Window, ...])
    except (MalformedError, KeyError, TypeError):
        windows = ()
    if windows and all(instant.tzinfo for window in windows for instant in (window.start, window.end)):
        return SeenRows(windows=united(windows))
    created_at = manifest.created_at if manifest.created_at.tzinfo else manifest.created_at.replace(tzinfo=UTC)
    return SeenRows(windows=(Window(start=_EVER, end=created_at),), is_known=False)


def united(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Their union."""
    found: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start):
        if found and window.start <= found[-1].end:
            found[-1] = Window(start=found[-1].start, end=max(found[-1].end, window.end))
        else:
            found.append(window)
    return tuple(found)
