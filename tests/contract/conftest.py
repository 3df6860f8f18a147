"""Fixtures of the tests that open the components of a process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.daemon import run_report, wiring
from retrain_worker.domain.report_request import ReportRequest
from tests.daemon_home import opened_components
from tests.worker.postgres_server import INITDB, PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if INITDB is None:
        pytest.skip("no PostgreSQL server on this host (initdb, postgres)")
    with postgres_server() as server:
        server.connect().close()
        yield server


@pytest.fixture
def boot_seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The boot clock, which moves only when a test sets it."""
    seconds = [0.0]
    monkeypatch.setattr(wiring, "boot_clock", lambda: seconds[0])
    return seconds


@pytest.fixture(autouse=True)
def written_pages(monkeypatch: pytest.MonkeyPatch) -> list[ReportRequest]:
    """What a worker process would be started for, to write pages."""
    requests: list[ReportRequest] = []

    def write_pages(request: ReportRequest, **_options: object) -> None:
        requests.append(request)

    monkeypatch.setattr(run_report, "write_pages", write_pages)
    return requests


@pytest.fixture
def components(tmp_path: Path, boot_seconds: list[float]) -> Iterator[Any]:
    with opened_components(tmp_path / "home") as components:
        yield components
