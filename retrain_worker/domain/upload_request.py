"""The request to a worker to copy model files to MODELS_URL, and the environment that it gets on its stdin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UploadRequest:
    """Copy these models, each with the files beside it, into the folder `models_url`. Credentials come on stdin."""

    #: (path, sha256); the first one must be there, another one is left out where it is gone
    models: tuple[tuple[str, str], ...]
    models_url: str
    memory_limit_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class UploadResult:
    """All are there, as read back."""

    urls: tuple[str, ...]


#: what libraries of object stores read: credentials, regions, end points, proxies
_PREFIXES = ("AWS_", "GOOGLE_", "GCSFS_", "AZURE_", "FSSPEC_")
_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"})


def is_of_object_store(name: str) -> bool:
    """Whether a variable of the environment is for the library of an object store."""
    return name.startswith(_PREFIXES) or name.upper() in _NAMES


def credentials_in(text: str) -> Mapping[str, str]:
    """NAME=VALUE, separated by blanks. Raises ValueError, without a value, for another text."""
    found = dict(each.partition("=")[::2] for each in text.split())
    for name, value in found.items():
        if not (value and is_of_object_store(name)):
            raise ValueError(f"not NAME=VALUE pairs of names as AWS_ACCESS_KEY_ID ({', '.join(_PREFIXES)})")
    return found
