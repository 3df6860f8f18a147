"""The checksum file beside a model file, in the form that `sha256sum -c` reads. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.domain.artifact import checksum_file
from retrain_worker.domain.decoding import is_sha256

_MAX_BYTES = 4096


def stored_checksum(path: Path) -> str | None:
    """The hash in the checksum file beside `path`: None without that file, empty when it holds none."""
    try:
        words = durable_file.read_regular(checksum_file(path), _MAX_BYTES).decode(errors="replace").split()
    except FileNotFoundError:
        return None
    except OSError:
        words = []
    return words[0].lower() if words and is_sha256(words[0].lower()) else ""
