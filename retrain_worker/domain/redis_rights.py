"""What each role does in Redis: commands, keys, and what does not work without them.

`retrain-worker redis-acl` prints these rights; a message about a refused command names what stops meanwhile. A test
runs every role with exactly these rights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from retrain_worker.domain.current_model import CHANGES
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.domain.events import (
    CURRENT_MODEL_KEY,
    REQUEST_GROUP,
    REQUEST_STREAM,
    SERVED_STREAM,
    EventType,
    stream_of,
)
from retrain_worker.domain.redis_names import DEAD_LETTER_PREFIX, RedisNames

_EVENTS = tuple(stream_of(kind) for kind in EventType)
_CHANGES = tuple(stream_of(kind) for kind in CHANGES)
_ALL = (*_EVENTS, REQUEST_STREAM, SERVED_STREAM)


class Role(StrEnum):
    """Who uses a connection."""

    DAEMON = "daemon"
    #: the engine, when it follows the slot by ModelFollower and writes its answers
    ENGINE = "engine"
    #: any other user of ModelFollower
    FOLLOWER = "follower"
    #: a user of ModelEvents
    CONSUMER = "consumer"
    #: the commands of an operator: trigger, events tail, check
    OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class Right:
    """Commands on keys."""

    commands: tuple[str, ...]
    #: by the stack's names; none: the commands have no key
    keys: tuple[str, ...] = ()
    #: what happens without it, as a clause
    without: str


_FOLLOW = (
    Right(commands=("hmget",), keys=(CURRENT_MODEL_KEY,), without="followers know the model from the env file only"),
    Right(
        commands=("xread", "xinfo|stream"), keys=_CHANGES, without="followers see a change of the model a second later"
    ),
    Right(commands=("xadd",), keys=(SERVED_STREAM,), without="followers do not acknowledge the model that they serve"),
)
RIGHTS: Mapping[Role, tuple[Right, ...]] = {
    Role.DAEMON: (
        Right(commands=("info",), without="restarts and evictions of Redis are not noticed"),
        Right(commands=("xadd", "multi", "exec", "xinfo|stream"), keys=_EVENTS, without="events wait in the outbox"),
        Right(commands=("xrange",), keys=_EVENTS, without="events that Redis has lost are not published again"),
        Right(commands=("hset", "hmget"), keys=(CURRENT_MODEL_KEY,), without="the current-model hash is not written"),
        Right(
            commands=("watch", "unwatch"),
            keys=(CURRENT_MODEL_KEY,),
            without="a daemon with STATE_URL publishes no event",
        ),
        Right(commands=("xinfo|groups", "xpending", "xtrim"), keys=_ALL, without="old entries are not removed"),
        Right(
            commands=("xgroup|create", "xreadgroup"), keys=(REQUEST_STREAM,), without="retrain requests are not taken"
        ),
        Right(
            commands=("xread", "xinfo|stream"),
            keys=(REQUEST_STREAM,),
            without="retrain requests are noticed two seconds later",
        ),
        Right(
            commands=("xautoclaim",),
            keys=(REQUEST_STREAM,),
            without="retrain requests that another consumer has left are not taken",
        ),
        Right(
            commands=("xack",),
            keys=(REQUEST_STREAM,),
            without="retrain requests that were taken stay pending",
        ),
        Right(
            commands=("xadd",),
            keys=(DEAD_LETTER_PREFIX + REQUEST_GROUP,),
            without="retrain requests that cannot be read are not kept",
        ),
        Right(commands=("xrevrange",), keys=(SERVED_STREAM,), without="no follower can confirm a model"),
        Right(commands=("xrevrange",), keys=(INTENT_STREAM,), without="no answer of the engine can confirm a model"),
        Right(commands=("xrange",), keys=(INTENT_STREAM,), without="the engine's answers are not counted"),
    ),
    Role.ENGINE: (
        *_FOLLOW,
        Right(commands=("xadd",), keys=(INTENT_STREAM,), without="the engine's answers are not published"),
    ),
    Role.FOLLOWER: _FOLLOW,
    Role.CONSUMER: (
        Right(commands=("xgroup|create", "xreadgroup"), keys=_EVENTS, without="events are not read"),
        Right(commands=("xack",), keys=_EVENTS, without="handled events are delivered again"),
        Right(
            commands=("xpending", "xclaim", "xrange"),
            keys=_EVENTS,
            without="events that were delivered and not acknowledged are not delivered again",
        ),
        Right(
            commands=("xinfo|groups", "xrevrange"),
            keys=_EVENTS,
            without="events that Redis has lost may be delivered twice",
        ),
        Right(commands=("xadd",), keys=(f"{DEAD_LETTER_PREFIX}*",), without="entries that cannot be read are not kept"),
    ),
    Role.OPERATOR: (
        Right(commands=("xadd",), keys=(REQUEST_STREAM,), without="trigger needs the state database of the daemon"),
        Right(commands=("wait",), without="trigger does not tell whether a replica has the request"),
        Right(commands=("xinfo|stream", "xrevrange", "xread"), keys=_ALL, without="events tail shows nothing"),
        Right(commands=("info",), without="check cannot examine Redis"),
        Right(commands=("xrevrange",), keys=(INTENT_STREAM,), without="check cannot tell whether the engine answers"),
    ),
}
#: of every role; without them nothing changes
_COMMON = ("client|setname", "select")


def effect_of_refusal(role: Role, command: str, key: str) -> str:
    """What happens when `role` may not execute `command` on `key` (empty: on any); empty where that is not known."""
    of_command = [
        right for right in RIGHTS[role] if any(command in ("", each, each.partition("|")[0]) for each in right.commands)
    ]
    of_key = [right for right in of_command if not right.keys or _matches(key, right.keys)]
    return " and ".join(dict.fromkeys(right.without for right in of_key or of_command))


def acl_rules(role: Role, names: RedisNames) -> list[str]:
    """The rules of ACL SETUSER that give a user exactly the rights of `role`; passwords stay. Needs Redis 7.0."""
    rules = ["on", "resetkeys", "resetchannels", "-@all", "clearselectors", *(f"+{command}" for command in _COMMON)]
    for right in RIGHTS[role]:
        commands = " ".join(f"+{command}" for command in right.commands)
        if right.keys:
            keys = " ".join(f"~{names.actual(key)}" for key in right.keys)
            rules.append(f"({commands} {keys})")
        else:
            rules.append(commands)
    return rules


def commands_of(role: Role) -> Iterator[str]:
    """Every command of the role, once."""
    yield from dict.fromkeys(command for right in RIGHTS[role] for command in right.commands)


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(key == pattern or (pattern.endswith("*") and key.startswith(pattern[:-1])) for pattern in patterns)
