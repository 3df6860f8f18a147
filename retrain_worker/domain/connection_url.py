"""URLs of databases and of Redis: one spelling that every library parses alike, and text that holds no password."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from retrain_worker.domain.masking import MASK
from retrain_worker.domain.printable import printable

#: A password may hold / # @ : but no ?, and no other part a raw # or @: then no text can be parsed in two ways.
_BEGINNING = r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^:/?#]*)(?::(?P<password>[^?]*))?@)?"
_HOST = r"(?:\[[0-9A-Fa-f:.]*\]|[^][:/?#@]*)(?::[0-9]{0,5})?"
_ENDING = r"(?:/[^?#@]*)?)(?:\?(?P<query>[^#@]*))?"
_URL = re.compile(f"{_BEGINNING}(?P<place>{_HOST}{_ENDING}")
#: several hosts
_SENTINELS_URL = re.compile(
    f"{_BEGINNING}(?P<place>{_HOST.replace('/', '/,')}(?:,{_HOST.replace('/', '/,')})*{_ENDING}"
)
_SENTINEL = "+sentinel"
#: parameters that name a server, of libpq; every other one is left out of messages
_SHOWN_PARAMETERS = ("host", "port", "dbname")
_MODELS_URL = re.compile(r"[a-z][a-z0-9]*://[A-Za-z0-9._~%:/+\[\]-]+")
_SECRET_PARAMETERS = ("password", "sslpassword", "ssl_password", "sentinel_password")
_UNREADABLE = "an unreadable URL"


@dataclass(frozen=True, kw_only=True)
class _Parts:
    scheme: str
    user: str | None
    #: as it is written; None: not given
    password: str | None = field(repr=False)
    #: host, port and path
    place: str
    query: str | None = field(repr=False)

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Name and value, as it is written, of each parameter."""
        for parameter in (self.query or "").split("&"):
            name, _, value = parameter.partition("=")
            yield unquote_plus(name), value


def requoted(url: str) -> str:
    """`url` with user and password percent-encoded. Raises ValueError, without any part of the URL, for other text."""
    parts = _parts_of(url)
    user = "" if parts.user is None else quote(unquote(parts.user), safe="")
    password = "" if parts.password is None else f":{quote(unquote(parts.password), safe='')}"
    query = "" if parts.query is None else f"?{parts.query}"
    return f"{parts.scheme}://{user}{password}{'@' if user or password else ''}{parts.place}{query}"


def shown(url: str) -> str:
    """Scheme, user, host, port and path of `url`, for messages."""
    try:
        parts = _parts_of(url)
    except ValueError:
        return _UNREADABLE
    # a name without a password may be a token
    user = f"{parts.user}@" if parts.user and parts.password is not None else ""
    query = "&".join(f"{name}={value}" for name, value in parts.parameters() if name in _SHOWN_PARAMETERS)
    scheme = parts.scheme if parts.scheme.endswith(_SENTINEL) else parts.scheme.partition("+")[0]
    text = f"{scheme}://{user}{parts.place}" + (f"?{query}" if query else "")
    return printable(unquote(text))


def user_of(url: str) -> str:
    """The user that `url` names; empty without one."""
    try:
        return unquote(_parts_of(url).user or "")
    except ValueError:
        return ""


def has_password(url: str) -> bool:
    """Whether `url` holds a password, as far as it can be parsed."""
    return any(_passwords_in(url))


def without_password(text: str, url: str) -> str:
    """`text`, which a library has written, without the password of `url`."""
    return without(text, _passwords_in(url))


def without(text: str, passwords: Iterable[str]) -> str:
    """`text` without any of these passwords, in whichever spelling of a URL."""
    spellings = {
        spelling
        for password in passwords
        for decoded in (password, unquote(password), unquote_plus(password))
        for spelling in (
            decoded,
            quote(decoded),
            quote(decoded, safe=""),
            quote(decoded, safe=" +"),
            quote_plus(decoded),
        )
    }
    for spelling in sorted(spellings - {""}, key=len, reverse=True):
        text = text.replace(spelling, MASK)
    return text


def problem_of_models_url(url: str) -> str:
    """Why it cannot be a folder of models; empty when it can. It is published, so it holds no user and no password."""
    if _MODELS_URL.fullmatch(url) is None or "::" in url:
        return "not a URL as s3://bucket/folder or file:///mnt/models, without user, password, ? and #"
    return "a local folder is file:///PATH" if url.startswith("file://") and not url.startswith("file:///") else ""


def _parts_of(url: str) -> _Parts:
    has_sentinels = url.partition("://")[0].endswith(_SENTINEL)
    found = (_SENTINELS_URL if has_sentinels else _URL).fullmatch(url)
    if found is None:
        raise ValueError("not a URL, or one of ? # @ in it must be percent-encoded")
    return _Parts(**found.groupdict())


def _passwords_in(url: str) -> list[str]:
    try:
        parts = _parts_of(url)
    except ValueError:
        return []
    return [parts.password or "", *(value for name, value in parts.parameters() if name in _SECRET_PARAMETERS)]
