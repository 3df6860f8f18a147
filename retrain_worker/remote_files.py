"""Files at a URL (file, http, https, s3, gs, …): bounded reads with a time limit, and writes, through fsspec.

A local file is read and written by durable_file: never a device or a pipe, and atomically. fsspec is imported on use;
it takes credentials from where the library of the scheme looks for them (environment, files, metadata service).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from retrain_worker import durable_file
from retrain_worker.domain.masking import masked
from retrain_worker.errors import RemoteUnavailableError, RetrainError, SettingsError, install_extra

_CHUNK_BYTES = 1 << 20
_CONNECT_SECONDS = 10.0
#: the package that reads a scheme, where fsspec alone does not
_PACKAGES = {"s3": "pip install s3fs", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}


def read(url: str, *, limit_bytes: int, seconds: float) -> bytes:
    """The bytes of a file. Raises RemoteUnavailableError when it has more than `limit_bytes`, or after `seconds`.

    Raises SettingsError for a package that is not installed.
    """
    until = time.monotonic() + seconds
    with _named_errors(url):
        if (path := local_path(url)) is not None:
            return durable_file.read_regular(path, limit_bytes)
        files, name = _opened(url, seconds)
        # of HTTP a stream: a server need not know ranges, nor the size
        options: dict[str, Any] = {"block_size": 0} if url.startswith("http") else {}
        parts, size = [], 0
        with files.open(name, "rb", **options) as file:
            while chunk := file.read(min(_CHUNK_BYTES, limit_bytes + 1 - size)):
                parts.append(chunk)
                size += len(chunk)
                if size > limit_bytes:
                    raise RemoteUnavailableError(f"more than {limit_bytes:,} bytes", where=url)
                if time.monotonic() > until:
                    raise RemoteUnavailableError(f"not read within {seconds:g} s ({size:,} bytes were)", where=url)
        return b"".join(parts)


def write(url: str, content: bytes, *, seconds: float) -> None:
    """Write a file. Raises RemoteUnavailableError; for a local one what durable_file raises."""
    with _named_errors(url):
        if (path := local_path(url)) is not None:
            durable_file.replace_file(path, content)
        else:
            files, name = _opened(url, seconds)
            files.pipe_file(name, content)


def local_path(url: str) -> Path | None:
    """The path of a `file:///` URL; None of another one."""
    return Path(unquote(urlsplit(url).path)) if url.startswith("file:///") else None


def _opened(url: str, seconds: float) -> tuple[Any, str]:
    """The file system of the URL and the name in it."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith("http"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        options["client_kwargs"] = {"timeout": limits}
    elif url.startswith("s3://"):
        limits_of_s3 = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": seconds, "retries": {"max_attempts": 2}}
        options["config_kwargs"] = limits_of_s3
    return fsspec.url_to_fs(url, **options)  # type: ignore[no-any-return]


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    """Whatever a library raises, as one of this program's errors, with the URL."""
    try:
        yield
    except RetrainError:
        raise
    except ImportError as error:
        scheme = url.partition(":")[0]
        remedy = _PACKAGES.get(scheme, install_extra("fetch"))
        raise SettingsError((f"a package for {scheme}:// is not installed ({error})",), remedy=remedy) from error
    except Exception as error:
        lines = str(error).splitlines() or [""]
        cause = masked(f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": "))
        raise RemoteUnavailableError(f"cannot be read or written ({cause})", where=url) from error
