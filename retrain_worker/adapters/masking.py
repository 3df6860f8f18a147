"""Takes passwords out of text before anybody reads it."""

from __future__ import annotations

import re

_MASK = "***"
_IN_URL = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+(?:@[^\s/@]+)*(?=@)")
_ASSIGNED = re.compile(
    r"(?P<before>(?i:password|passwd|pwd|secret|token|api_key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]+")


def masked(text: str) -> str:
    """`text` with the password of every URL, and whatever is assigned to a password-like name, replaced by ***."""
    return _ASSIGNED.sub(rf"\g<before>{_MASK}", _IN_URL.sub(rf"\g<before>{_MASK}", text))
