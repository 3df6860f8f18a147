"""The newest ids of the events that a consumer has handled, in memory and optionally in a file.

Without a file a restarted consumer recovers them from the streams and its group, except when Redis loses data (an old
snapshot, FLUSHALL) while the consumer is down. The file has one id per line.
"""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from pathlib import Path

#: ids that are kept; some years of events, 400 kB on disk
MOST = 10_000
_log = logging.getLogger(__name__)


class HandledEvents:
    """A bounded set of event ids; the oldest are dropped first."""

    def __init__(self, path: Path | None = None, *, most: int = MOST) -> None:
        """Read `path`, if it exists. Raises OSError when it cannot be read or written."""
        self._path = path
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._num_lines = 0
        if path is not None:
            for event_id in _ids_in(path):
                self._keep(event_id)
            self._rewrite(path)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids

    def add(self, event_id: str) -> None:
        """Add an id. A file that cannot be written is logged and no longer used."""
        is_known = event_id in self._ids
        self._keep(event_id)
        if self._path is None or is_known:
            return
        try:
            if self._num_lines >= 2 * self._most:
                self._rewrite(self._path)
                return
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event_id) + "\n")
            self._num_lines += 1
        except OSError as error:
            _log.warning(
                "cannot write %s (%s): after a restart some events may be delivered twice", self._path, error.strerror
            )

    def _keep(self, event_id: str) -> None:
        self._ids[event_id] = None
        self._ids.move_to_end(event_id)
        while len(self._ids) > self._most:
            self._ids.popitem(last=False)

    def _rewrite(self, path: Path) -> None:
        """Replace the file by the ids in memory, atomically."""
        beside = path.with_name(path.name + ".new")
        beside.write_text("".join(json.dumps(event_id) + "\n" for event_id in self._ids), encoding="utf-8")
        os.replace(beside, path)  # noqa: PTH105
        self._num_lines = len(self._ids)


def _ids_in(path: Path) -> list[str]:
    """The ids in the file; an incomplete line is skipped."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            event_id = json.loads(line)
        except ValueError:
            continue
        if isinstance(event_id, str):
            found.append(event_id)
    return found
