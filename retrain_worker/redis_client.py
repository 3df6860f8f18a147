"""Connections to Redis without implicit retries, and messages for its errors.

redis-py repeats a write after a lost reply (10 times by default since 8.0) and so duplicates it; here nothing is
repeated implicitly. Replies stay bytes: foreign entries of a stream need not be UTF-8. No message of this module
contains a password. Used by adapters, which write, and by serving, which reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from redis.typing import EncodableT, FieldT

from retrain_worker.domain.problem import Problem, ProblemKind
from retrain_worker.domain.redis_names import RedisNames, stacks_stream
from retrain_worker.errors import RedisUnavailableError, SettingsError

AnyRedis = redis.Redis | redis.asyncio.Redis
CONNECT_TIMEOUT_SECONDS = 2.0
SOCKET_TIMEOUT_SECONDS = 5.0
HEALTH_CHECK_SECONDS = 30
FIRST_BACK_OFF = timedelta(seconds=1)
LONGEST_BACK_OFF = timedelta(seconds=30)
_SCHEMES = ("redis://", "rediss://", "unix://")
#: stream of the dead letters of a consumer group
DEAD_LETTER_PREFIX = "quantum:dead_letter:"
DEAD_LETTER_LENGTH = 1000
#: the first version with XAUTOCLAIM and XTRIM MINID
OLDEST_VERSION = (6, 2)
_IN_PIPELINE = "of pipeline caused error: "


@dataclass(frozen=True, kw_only=True)
class RedisProblem(Problem):
    """Why Redis did not do what was requested, without secrets."""

    #: whether it is probably temporary; otherwise an operator must act
    is_transient: bool
    #: the one key that has the problem; empty: all of Redis
    key: str = ""


#: replies stay bytes, in the protocol that every server since 6.2 supports
_ALWAYS: dict[str, Any] = {"protocol": 2, "decode_responses": False, "health_check_interval": HEALTH_CHECK_SECONDS}
#: class of the error -> code, usually the server's own
_CODES = {
    "AuthenticationError": "NOAUTH",
    "AuthorizationError": "NOAUTH",
    "BusyLoadingError": "LOADING",
    "TimeoutError": "TIMEOUT",
    "ConnectionError": "UNREACHABLE",
    "OSError": "UNREACHABLE",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}
#: code -> cause, of temporary problems
_TRANSIENT_CAUSES = {
    "UNREACHABLE": "cannot be reached ({text})",
    "TIMEOUT": "does not answer in time",
    "LOADING": "is still loading its data",
    "READONLY": "is a read-only replica",
    "OOM": "is out of memory",
    "MISCONF": "cannot save to its disk and accepts no writes",
    "NOREPLICAS": "has too few replicas and accepts no writes",
    "MASTERDOWN": "is a replica that has lost its master",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "asks to try again",
}
#: code -> cause and action, of problems that need an operator
_LASTING_CAUSES = {
    "NOAUTH": ("refuses the user or password", "correct REDIS_URL"),
    "NOPERM": ("does not permit this ({text})", "extend the ACL of the user"),
    "WRONGTYPE": ("the key {key} is of another type", "move or delete it"),
}


class _Renaming:
    """Sends each command with the names of `names`."""

    names: RedisNames

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's; of the replies only those of XREAD and XREADGROUP hold names, which `streams_in` reads."""
        return super().execute_command(*map(self.names.actual, args), **options)  # type: ignore[misc]


class _Pipeline(_Renaming, redis.client.Pipeline):
    pass


class _Client(_Renaming, redis.Redis):
    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:
        """A pipeline of the same names."""
        pipeline = _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.names = self.names
        return pipeline


class _AsyncClient(_Renaming, redis.asyncio.Redis):  # type: ignore[misc]
    pass


def connect(
    url: str,
    *,
    names: RedisNames = RedisNames(),  # noqa: B008 - immutable
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    client_name: str = "retrain-worker",
) -> redis.Redis:
    """A client of `redis://`, `rediss://` or `unix://`; it sends nothing yet. Raises SettingsError for a bad URL."""
    with _named_errors(url):
        client: Any = _Client.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            client_name=client_name,
            socket_connect_timeout=connect_timeout_seconds,
            socket_timeout=socket_timeout_seconds,
            **_ALWAYS,
        )
        client.names = names
        return cast(redis.Redis, client)


def connect_async(
    url: str,
    *,
    names: RedisNames = RedisNames(),  # noqa: B008 - immutable
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    client_name: str = "retrain-worker",
) -> redis.asyncio.Redis:
    """The same for asyncio. Raises SettingsError for an invalid URL."""
    with _named_errors(url):
        client: Any = _AsyncClient.from_url(
            url,
            retry=AsyncRetry(NoBackoff(), 0),
            client_name=client_name,
            socket_connect_timeout=connect_timeout_seconds,
            socket_timeout=socket_timeout_seconds,
            **_ALWAYS,
        )
        client.names = names
        return cast(redis.asyncio.Redis, client)


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        # the library's message repeats parts of the URL, which may contain a password
        raise SettingsError(
            ("the Redis URL cannot be read",),
            where=where_of(url),
            remedy="use redis://host:port/db, rediss://... or unix:///path/to/socket",
        ) from None


def where_of(url: str) -> str:
    """The URL without user, password and options, for messages."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "REDIS_URL"
    if not url.startswith(_SCHEMES) or "@" in parts.path:
        return "REDIS_URL"  # not a URL, but it may contain a password
    return unquote(f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}")


def where_is(client: AnyRedis) -> str:
    """The server that `client` talks to, for messages."""
    options = client.connection_pool.connection_kwargs
    if "path" in options:
        return f"unix://{options['path']}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"


def problem_of(error: RedisError | OSError, client: AnyRedis, *, key: str = "") -> RedisProblem:
    """The problem of an access to `key`, and whether it is temporary."""
    code, text = _code_of(error), _without_secrets(" ".join(_said(error).split()), client)
    is_transient = code in _TRANSIENT_CAUSES
    cause, action = (
        (_TRANSIENT_CAUSES[code], "") if is_transient else _LASTING_CAUSES.get(code, ("answered: {text}", ""))
    )
    about_key = "" if is_transient or code == "NOAUTH" else key
    return RedisProblem(
        kind=ProblemKind.STREAM if about_key else ProblemKind.REDIS,
        subject=f"Redis at {where_is(client)}",
        cause=cause.format(key=key, text=text),
        action=action,
        is_transient=is_transient,
        key=about_key,
    )


def unavailable(error: RedisError | OSError, client: redis.Redis, *, key: str = "") -> RedisUnavailableError:
    """The problem as an error, for interactive commands."""
    return RedisUnavailableError(problem_of(error, client, key=key).message, remedy="try again when it is back")


def is_no_group(error: RedisError) -> bool:
    """Whether the consumer group or its stream does not exist (UNBLOCKED: was removed while waiting)."""
    return isinstance(error, ResponseError) and _code_of(error) in ("NOGROUP", "UNBLOCKED")


def is_no_such_key(error: RedisError) -> bool:
    """Whether the key does not exist."""
    return isinstance(error, ResponseError) and "no such key" in str(error).lower()


def _code_of(error: Exception) -> str:
    """The first word of the server's reply; redis-py removes it where it has a class for it."""
    for kind in type(error).__mro__:
        if kind.__name__ in _CODES:
            return _CODES[kind.__name__]
    return (_said(error).split(maxsplit=1) or [""])[0]


def _said(error: Exception) -> str:
    """The server's message. redis-py prefixes errors of a pipeline with the command and all its values."""
    return str(error).rpartition(_IN_PIPELINE)[2]


def _without_secrets(text: str, client: AnyRedis) -> str:
    password = client.connection_pool.connection_kwargs.get("password")
    return text.replace(str(password), "***") if password else text


def add_entry(
    client: redis.Redis,
    stream: str,
    fields: Mapping[str, str] | Mapping[bytes, bytes],
    *,
    entry_id: str = "*",
    longest: int | None = None,
) -> str:
    """XADD; the id of the entry. `longest` trims the stream to about that many entries."""
    encodable: dict[FieldT, EncodableT] = dict(fields.items())
    added = cast(bytes, client.xadd(stream, encodable, id=entry_id, maxlen=longest))
    return added.decode()


def dead_letter(
    client: redis.Redis, *, group: str, stream: str, entry_id: str, fields: Mapping[bytes, bytes], reason: str
) -> None:
    """Copy an entry that cannot be handled to `quantum:dead_letter:<group>`, with the reason, and acknowledge it."""
    kept = dead_letter_fields(stream=stream, entry_id=entry_id, fields=fields, reason=reason)
    add_entry(client, DEAD_LETTER_PREFIX + group, kept, longest=DEAD_LETTER_LENGTH)
    client.xack(stream, group, entry_id)


def dead_letter_fields(*, stream: str, entry_id: str, fields: Mapping[bytes, bytes], reason: str) -> dict[bytes, bytes]:
    """The dead letter of an entry: its fields, its stream and id, and the reason."""
    return {**fields, b"dead_letter_from": f"{stream} {entry_id}".encode(), b"dead_letter_reason": reason.encode()}


def text_of(raw: bytes | str) -> str:
    """A reply as text. Foreign entries need not be UTF-8."""
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def entries_in(reply: object) -> list[tuple[str, dict[bytes, bytes]]]:
    """The (id, fields) of a reply that lists stream entries; an entry that was deleted has no fields."""
    found = cast(list[tuple[bytes | None, dict[bytes, bytes] | None]], reply or [])
    return [(text_of(entry_id), fields or {}) for entry_id, fields in found if entry_id is not None]


def streams_in(reply: object) -> list[tuple[str, str, dict[bytes, bytes]]]:
    """The (stream, id, fields) of a reply of XREAD or XREADGROUP; the stream by the stack's name."""
    found = cast(list[tuple[bytes, object]], reply or [])
    return [
        (stacks_stream(text_of(name)), entry_id, fields)
        for name, entries in found
        for entry_id, fields in entries_in(entries)
    ]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The version of a Redis server, and warnings about configurations that may lose events."""

    version: str
    run_id: str
    warnings: tuple[str, ...]


def examine(client: redis.Redis) -> Examination:
    """Read version, eviction policy and persistence. Raises RedisUnavailableError when Redis does not answer."""
    try:
        info: dict[str, Any] = client.info("server")
        memory: dict[str, Any] = client.info("memory")
        persistence: dict[str, Any] = client.info("persistence")
    except (RedisError, OSError) as error:
        raise unavailable(error, client) from error
    version = str(info.get("redis_version", ""))
    warnings = []
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_VERSION:
        warnings.append(f"Redis {version} is older than 6.2: requests and trimming do not work")
    if warning := eviction_warning(memory):
        warnings.append(warning)
    if not persistence.get("aof_enabled"):
        warnings.append("appendonly is off: Redis can lose the latest minutes; lost events will be published again")
    return Examination(version=version, run_id=str(info.get("run_id", "")), warnings=tuple(warnings))


def eviction_warning(memory: Mapping[str, Any]) -> str | None:
    """A warning when `INFO memory` shows a policy that may evict whole streams, else None."""
    if memory.get("maxmemory") and "allkeys" in str(memory.get("maxmemory_policy")):
        return f"maxmemory-policy {memory['maxmemory_policy']} may evict a whole stream; use noeviction"
    return None


class BackOff:
    """Growing pauses while a problem lasts. A clock jump cannot make a pause endless."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._pause = timedelta()
        self._not_before: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether the next attempt is due."""
        if self._not_before is None:
            return True
        left = self._not_before - self._now()
        return not timedelta() < left <= LONGEST_BACK_OFF

    def after(self, problem: RedisProblem | None) -> None:
        """Record the result of an attempt."""
        if problem is None:
            self._pause, self._not_before = timedelta(), None
            return
        longer = max(FIRST_BACK_OFF, min(self._pause * 2, LONGEST_BACK_OFF))
        self._pause = longer if problem.is_transient else LONGEST_BACK_OFF
        self._not_before = self._now() + self._pause
