"""Clients of the master that the sentinels of a Redis name.

redis+sentinel://[user:password@]host[:26379][,host[:26379]...]/master[/db][?option=value]; rediss+sentinel:// with TLS
to servers and sentinels. The options are those of redis-py in a URL, and sentinel_username, sentinel_password.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import redis.asyncio.sentinel
from redis.connection import parse_url
from redis.sentinel import Sentinel

_SCHEME = "+sentinel"
_PORT = 26379
#: of one sentinel; one that does not answer is skipped
_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class SentinelPlace:
    """What a URL names."""

    addresses: tuple[tuple[str, int], ...]
    master: str
    #: of connections to Redis, and to a sentinel
    options: dict[str, Any]
    sentinel_options: dict[str, Any]

    def client(self, kind: type[redis.Redis], *, retry: Any, **options: Any) -> Any:
        """A client of class `kind`; it asks the sentinels at each new connection."""
        sentinels = Sentinel(self.addresses, sentinel_kwargs={**self.sentinel_options, "retry": retry})
        return sentinels.master_for(self.master, redis_class=kind, retry=retry, **self.options, **options)

    def async_client(self, kind: type[redis.asyncio.Redis], *, retry: Any, **options: Any) -> Any:
        """The same for asyncio."""
        sentinels = redis.asyncio.sentinel.Sentinel(
            self.addresses, sentinel_kwargs={**self.sentinel_options, "retry": retry}
        )
        return sentinels.master_for(self.master, redis_class=kind, retry=retry, **self.options, **options)


def place_in(url: str) -> SentinelPlace | None:
    """What the sentinels' `url` names; None for the URL of a server. Raises ValueError, also for TLS without TLS."""
    scheme, _, rest = url.partition("://")
    if "ssl_" in rest.partition("?")[2] and not scheme.startswith("rediss"):
        raise ValueError("options of TLS without TLS")
    if not scheme.endswith(_SCHEME):
        return None
    user, _, rest = rest.rpartition("@")
    place, _, query = rest.partition("?")
    hosts, _, path = place.partition("/")
    master, _, number = path.partition("/")
    if not master or not hosts:
        raise ValueError("no sentinel or no name of a master")
    plain = f"{scheme.removesuffix(_SCHEME)}://{user}{'@' if user else ''}localhost/{number}?{query}"
    options = parse_url(plain)
    is_tls = "connection_class" in options
    for name in ("host", "connection_class"):
        options.pop(name, None)
    of_sentinels = {
        name: value for name in ("username", "password") if (value := options.pop(f"sentinel_{name}", None)) is not None
    }
    tls = {"ssl": True, **{name: value for name, value in options.items() if name.startswith("ssl_")}} if is_tls else {}
    limits = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS, "protocol": 2}
    addresses = (urlsplit(f"//{host}") for host in hosts.split(","))
    return SentinelPlace(
        addresses=tuple((address.hostname or "localhost", address.port or _PORT) for address in addresses),
        master=unquote(master),
        options={**options, **tls},
        sentinel_options={**of_sentinels, **tls, **limits},
    )


def shown_place(client: redis.Redis | redis.asyncio.Redis) -> str:
    """The URL of the sentinels of `client`; empty when it has none."""
    pool: Any = client.connection_pool
    sentinels = getattr(pool, "sentinel_manager", None)
    if sentinels is None:
        return ""
    found = (sentinel.connection_pool.connection_kwargs for sentinel in sentinels.sentinels)
    hosts = ",".join(sorted(f"{each['host']}:{each['port']}" for each in found))
    return f"redis+sentinel://{hosts}/{pool.service_name}/{pool.connection_kwargs.get('db', 0)}"
