"""Fixtures of the tests that open the components of a process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.daemon import wiring
from tests.daemon_home import opened_components


@pytest.fixture
def boot_seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The boot clock, which moves only when a test sets it."""
    seconds = [0.0]
    monkeypatch.setattr(wiring, "boot_clock", lambda: seconds[0])
    return seconds


@pytest.fixture
def components(tmp_path: Path, boot_seconds: list[float]) -> Iterator[Any]:
    with opened_components(tmp_path / "home") as components:
        yield components
