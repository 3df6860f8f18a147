"""Which events a consumer has handled: the newest ids, in memory and, if it is given one, in a file of its own.

Without a file a restarted consumer learns them back from the streams and its group. That is enough until Redis itself
forgets (an old snapshot, FLUSHALL) while the consumer is down; then only a file still knows. One line an id.
"""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from pathlib import Path

#: ids that are remembered; some years of our events, 400 kB on disk
MOST = 10_000
_log = logging.getLogger(__name__)


class HandledEvents:
    """A bounded set of event ids; what is added last is forgotten last."""

    def __init__(self, path: Path | None = None, *, most: int = MOST) -> None:
        """Read `path`, if it is there. Raises OSError when it cannot be read or written."""
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
        """Remember it. A file that cannot be written is said in the log, and the memory goes on without it."""
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
                "%s cannot be written (%s): after a restart a few events may come twice", self._path, error.strerror
            )

    def _keep(self, event_id: str) -> None:
        self._ids[event_id] = None
        self._ids.move_to_end(event_id)
        while len(self._ids) > self._most:
            self._ids.popitem(last=False)

    def _rewrite(self, path: Path) -> None:
        """The file anew, with what is remembered and nothing else: as a whole, or not at all."""
        beside = path.with_name(path.name + ".new")
        beside.write_text("".join(json.dumps(event_id) + "\n" for event_id in self._ids), encoding="utf-8")
        os.replace(beside, path)  # noqa: PTH105
        self._num_lines = len(self._ids)


def _ids_in(path: Path) -> list[str]:
    """The ids in the file; a line that a crash has torn is passed over."""
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
