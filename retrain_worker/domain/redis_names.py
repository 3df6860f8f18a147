"""Names in Redis: the code uses those of the stack, and a worker with its own REDIS_PREFIX or INSTANCE has others."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retrain_worker.domain.events import CURRENT_MODEL_KEY, REQUEST_GROUP, STREAM_PREFIX

#: stream of the dead letters of a consumer group
DEAD_LETTER_PREFIX = "quantum:dead_letter:"
DEFAULT_PREFIX = STREAM_PREFIX.partition(":")[0]
#: of prefix and instance
NAME = re.compile(r"[A-Za-z0-9_.-]+")
_KEYS = tuple(f"{DEFAULT_PREFIX}:{kind}:" for kind in ("stream", "model", "dead_letter"))


@dataclass(frozen=True, kw_only=True)
class RedisNames:
    """The keys of one worker. Workers with the same prefix share streams; each instance has its own current model."""

    prefix: str = DEFAULT_PREFIX
    #: empty: the only worker of the prefix
    instance: str = ""

    def actual(self, name: object) -> object:
        """What Redis knows under the stack's `name`; anything else is unchanged."""
        if not isinstance(name, str):
            return name
        if self.instance and name == CURRENT_MODEL_KEY:
            name = CURRENT_MODEL_KEY.removesuffix("current") + f"{self.instance}:current"
        elif self.instance and name == REQUEST_GROUP:
            return f"{name}:{self.instance}"
        return self.prefix + name.removeprefix(DEFAULT_PREFIX) if name.startswith(_KEYS) else name


def stacks_stream(actual: str) -> str:
    """The stack's name of a stream with any prefix."""
    _prefix, separator, kind = actual.partition(":stream:")
    return STREAM_PREFIX + kind if separator else actual
