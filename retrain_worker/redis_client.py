"""Connections to Redis without implicit retries, and messages for its errors.

redis-py repeats a write after a lost reply (10 times by default since 8.0) and so duplicates it; here nothing is
repeated implicitly. Replies stay bytes, and are kept within limits (bounded_replies): foreign entries of a stream need
not be UTF-8, and may be large. No message of this module contains a password. Used by adapters, which write, and by
serving, which reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.retry import Retry
from redis.typing import EncodableT, FieldT

from retrain_worker.bounded_replies import AsyncBoundedParser, BoundedParser
from retrain_worker.domain.connection_url import requoted, shown, without
from retrain_worker.domain.decoding import MAX_FIELDS
from retrain_worker.domain.host_names import command
from retrain_worker.domain.problem import Problem, ProblemKind
from retrain_worker.domain.redis_names import DEAD_LETTER_PREFIX, RedisNames, stacks_stream
from retrain_worker.domain.redis_rights import Role, effect_of_refusal
from retrain_worker.errors import RedisUnavailableError, SettingsError
from retrain_worker.redis_sentinel import place_in, shown_place

AnyRedis = redis.Redis | redis.asyncio.Redis
CONNECT_TIMEOUT_SECONDS = 2.0
SOCKET_TIMEOUT_SECONDS = 5.0
FIRST_BACK_OFF = timedelta(seconds=1)
LONGEST_BACK_OFF = timedelta(seconds=30)
#: entries of one reply: each may have 1 MiB
PAGE = 20
DEAD_LETTER_LENGTH = 1000
#: the first version with XAUTOCLAIM and XTRIM MINID
OLDEST_VERSION = (6, 2)
_REFUSED_COMMAND = re.compile(r"'([\w|]+)' command")
_IN_PIPELINE = "of pipeline caused error: "


@dataclass(frozen=True, kw_only=True)
class RedisProblem(Problem):
    """Why Redis did not do what was requested, without secrets."""

    #: whether it is probably temporary; otherwise an operator must act
    is_transient: bool
    #: the one key that has the problem; empty: all of Redis
    key: str = ""


#: replies stay bytes, in the protocol that every server since 6.2 supports
_ALWAYS: dict[str, Any] = {"protocol": 2, "decode_responses": False}
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
    "MasterNotFoundError": "NOMASTER",
    "NoPermissionError": "NOPERM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}
#: code -> cause, of temporary problems
_TRANSIENT_CAUSES = {
    "UNREACHABLE": "cannot be reached ({text})",
    "TIMEOUT": "does not answer in time",
    "NOMASTER": "has no master that a sentinel can be asked for",
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
    "NOPERM": ("does not permit {refused}", "grant the rights that `{command} redis-acl` prints"),
    "WRONGTYPE": ("the key {key} is of another type", "move or delete it"),
}


class _Renaming:
    """Sends each command with the names of `names`."""

    names: RedisNames
    acl_role: Role

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's; of the replies only those of XREAD and XREADGROUP hold names, which `streams_in` reads."""
        return super().execute_command(*map(self.names.actual, args), **options)  # type: ignore[misc]


class _Pipeline(_Renaming, redis.client.Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """As the client's; a transaction that an ACL has refused raises the refusal, not what followed from it."""
        try:
            return super().execute(raise_on_error)
        except NoPermissionError:
            raise
        except ResponseError as error:
            if "EXEC without MULTI" in str(error):
                raise NoPermissionError("no permissions to run the 'multi' command") from error
            if "NOPERM" in str(error):
                raise NoPermissionError(str(error)) from error
            raise


class _Introduction:
    """Sets up new connections; the name is for lists of clients, and an ACL may refuse it."""

    def __init__(self, client_name: str) -> None:
        self._client_name = client_name
        #: a new connection would be an error
        self.is_refused = False

    def __call__(self, connection: redis.Connection) -> None:
        if self.is_refused:
            raise redis.ConnectionError("the connection was closed")
        connection.on_connect()
        with suppress(ResponseError):
            connection.send_command("CLIENT", "SETNAME", self._client_name)
            connection.read_response()


class _Client(_Renaming, redis.Redis):
    introduction: _Introduction

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:
        """A pipeline of the same names."""
        pipeline = _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.names, pipeline.acl_role = self.names, self.acl_role
        return pipeline

    def close(self) -> None:
        """Close the connections, those to sentinels as well."""
        super().close()
        if sentinels := getattr(self.connection_pool, "sentinel_manager", None):
            sentinels.close()


class _AsyncClient(_Renaming, redis.asyncio.Redis):  # type: ignore[misc]
    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections, those to sentinels as well."""
        await super().aclose(close_connection_pool)
        if sentinels := getattr(self.connection_pool, "sentinel_manager", None):
            await sentinels.aclose()


def connect(
    url: str,
    *,
    names: RedisNames = RedisNames(),  # noqa: B008 - immutable
    role: Role = Role.OPERATOR,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    client_name: str = "retrain-worker",
) -> redis.Redis:
    """A client of `redis://`, `rediss://`, `unix://`, or of the master that sentinels name (redis_sentinel).

    It sends nothing yet. Raises SettingsError for a bad URL.
    """
    with _named_errors(url):
        place = place_in(quoted := requoted(url))
        make = partial(place.client, _Client) if place else partial(_Client.from_url, quoted)
        client: Any = make(
            retry=Retry(NoBackoff(), 0),
            parser_class=BoundedParser,
            redis_connect_func=(introduction := _Introduction(client_name)),
            socket_connect_timeout=connect_timeout_seconds,
            socket_timeout=socket_timeout_seconds,
            **_ALWAYS,
        )
        client.names, client.acl_role, client.introduction = names, role, introduction
        return cast(redis.Redis, client)


def connect_async(
    url: str,
    *,
    names: RedisNames = RedisNames(),  # noqa: B008 - immutable
    role: Role = Role.OPERATOR,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    client_name: str = "retrain-worker",
) -> redis.asyncio.Redis:
    """The same for asyncio. Raises SettingsError for an invalid URL."""

    async def introduce(connection: redis.asyncio.Connection) -> None:
        await connection.on_connect()
        with suppress(ResponseError):
            await connection.send_command("CLIENT", "SETNAME", client_name)
            await connection.read_response()

    with _named_errors(url):
        place = place_in(quoted := requoted(url))
        make = partial(place.async_client, _AsyncClient) if place else partial(_AsyncClient.from_url, quoted)
        client: Any = make(
            retry=AsyncRetry(NoBackoff(), 0),
            parser_class=AsyncBoundedParser,
            redis_connect_func=introduce,
            socket_connect_timeout=connect_timeout_seconds,
            socket_timeout=socket_timeout_seconds,
            **_ALWAYS,
        )
        client.names, client.acl_role = names, role
        return cast(redis.asyncio.Redis, client)


@contextmanager
def same_connection(client: redis.Redis) -> Iterator[None]:
    """Raise ConnectionError instead of opening a connection, which may lead to another server. For one thread."""
    introduction = cast(_Client, client).introduction
    introduction.is_refused = True
    try:
        yield
    finally:
        introduction.is_refused = False


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        # the library's message repeats parts of the URL, which may contain a password
        raise SettingsError(
            ("the Redis URL cannot be read",),
            where=shown(url),
            remedy="use redis://host:port/db, rediss://..., redis+sentinel://host:port,host:port/master/db or "
            "unix:///path; options of TLS need rediss",
        ) from None


def has_sentinels(client: AnyRedis) -> bool:
    """Whether sentinels may replace the server that `client` talks to."""
    return bool(shown_place(client))


def where_is(client: AnyRedis) -> str:
    """The server that `client` talks to, for messages."""
    if sentinels := shown_place(client):
        return sentinels
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
        cause=cause.format(key=key, text=text, refused=_refused(text, client, key) if code == "NOPERM" else ""),
        action=action.format(command=command()),
        is_transient=is_transient,
        key=about_key,
    )


def _refused(text: str, client: AnyRedis, key: str) -> str:
    """The command or key that an ACL refuses, and what happens meanwhile."""
    named = _REFUSED_COMMAND.search(text)
    command = named[1].lower() if named else ""
    effect = effect_of_refusal(cast(_Renaming, client).acl_role, command, key)
    return (f"the command {command}" if command else f"access to {key or 'a key'}") + (f": {effect}" if effect else "")


def unavailable(error: RedisError | OSError, client: redis.Redis, *, key: str = "") -> RedisUnavailableError:
    """The problem as an error."""
    problem = problem_of(error, client, key=key)
    return RedisUnavailableError(problem.message, remedy="try again when it is back" if problem.is_transient else "")


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
    return without(text, [str(password)]) if password else text


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
    """Copy an entry that cannot be handled to `quantum:dead_letter:<group>`, with the reason."""
    kept = dead_letter_fields(stream=stream, entry_id=entry_id, fields=fields, reason=reason)
    add_entry(client, DEAD_LETTER_PREFIX + group, kept, longest=DEAD_LETTER_LENGTH)


def dead_letter_fields(*, stream: str, entry_id: str, fields: Mapping[bytes, bytes], reason: str) -> dict[bytes, bytes]:
    """The dead letter of an entry: its stream and id, the reason, and its fields, as many as an entry may have."""
    ours = {b"dead_letter_from": f"{stream} {entry_id}".encode(), b"dead_letter_reason": reason.encode()}
    return ours | dict(islice(fields.items(), MAX_FIELDS)) | ours


def text_of(raw: bytes | str) -> str:
    """A reply as text. Foreign entries need not be UTF-8."""
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def newest_entries(
    client: redis.Redis, stream: str, *, since: datetime, limit: int
) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """The newest `limit` (id, fields) that were added at `since` or later, newest first. Raises RedisError."""
    oldest, newest = str(int(since.timestamp() * 1000)), "+"
    for _ in range(-(-limit // PAGE)):
        page = entries_in(client.xrevrange(stream, newest, oldest, count=PAGE))
        yield from page
        if len(page) < PAGE:
            return
        newest = f"({page[-1][0]}"


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
