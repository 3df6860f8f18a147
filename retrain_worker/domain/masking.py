"""Masks passwords in text, and recognises names whose values are secret."""

from __future__ import annotations

import re

MASK = "***"
#: up to the last @ of a word: a password may hold any character of a URL
_IN_URL = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*:/+[^\s:/@]*:)[^\s\"'<>]+(?=@)")
_ASSIGNED = re.compile(
    r"(?P<before>(?i:password|passwd|pwd|(?:secret|token|api)(?:[-_]?key)?)(?<!api)[\"']?\s*[=:]\s*(?P<quote>[\"'])?)"
    r"(?(quote)(?:\\.|(?!(?P=quote)).)+|[^\s\"',;&]+)"
)
#: `--api-secret VALUE`
_OPTION = re.compile(r"(?P<before>--?[\w-]*(?i:password|passwd|secret|token|api-?key)[\w-]*\s+)(?!-)[^\s]+")
_SECRET_NAME = re.compile(r"(?i)key|secret|pass|pwd|token|credential|auth|private|salt|notify_url")


def masked(text: str) -> str:
    """`text` with the password of every URL and every value of a password-like name replaced by ***."""
    for pattern in (_IN_URL, _ASSIGNED, _OPTION):
        text = pattern.sub(rf"\g<before>{MASK}", text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether the value of `name` must not be shown."""
    return _SECRET_NAME.search(name) is not None
