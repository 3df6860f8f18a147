"""An idle daemon acts at once on what another process does: its own pauses are hours here."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retrain_worker.adapters.retrain_requests import trigger
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon import service
from retrain_worker.daemon.signals import Signals
from retrain_worker.daemon.wiring import Components
from retrain_worker.domain.lifecycle import Deployment
from retrain_worker.errors import StateError
from retrain_worker.redis_client import connect
from tests.daemon_home import an_ended_run

HOUR = 3600.0
PATIENCE_SECONDS = 120.0


@pytest.fixture
def signals() -> Iterator[Signals]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield Signals()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def idle(components: Components, monkeypatch: pytest.MonkeyPatch) -> Components:
    for name in ("_IDLE_HEARTBEAT_SECONDS", "_IDLE_SECONDS", "_IDLE_REQUESTS_SECONDS"):
        monkeypatch.setattr(service, name, HOUR)
    an_ended_run(components, datetime.now(UTC))
    return components


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def served(components: Components, signals: Signals, tmp_path: Path, meanwhile: Callable[[], None]) -> None:
    """Serve; `meanwhile` begins when the daemon is idle, and the stop follows it."""
    failed: list[BaseException] = []

    def other_process() -> None:
        try:
            until(lambda: components.driver.is_idle and components.relay.is_idle and service._is_waiting(components))
            time.sleep(1.0)  # the main loop sleeps, too
            meanwhile()
        except BaseException as error:
            failed.append(error)
        finally:
            signals._stop(signal.SIGTERM, None)

    thread = threading.Thread(target=other_process)
    thread.start()
    try:
        service.serve(
            components,
            signals=signals,
            notifier=Notifier(),
            read_settings=lambda: components.configuration.settings,
            result_path=tmp_path / "result",
        )
    finally:
        thread.join()
    if failed:
        raise failed[0]


def test_a_change_of_the_engine_s_env_file_is_recorded(idle: Components, signals: Signals, tmp_path: Path) -> None:
    def change() -> None:
        path = idle.configuration.settings.engine_env_file
        path.write_text(f"{path.read_text()}PATCHTST_MODEL_PATH=/opt/models/by_hand.pth\n")
        until(lambda: model_of(idle.store.last_deployment()) == "/opt/models/by_hand.pth")

    served(idle, signals, tmp_path, change)


def model_of(deployment: Deployment | None) -> str | None:
    return deployment.model_path if deployment else None


def test_a_retrain_request_begins_a_run(idle: Components, signals: Signals, tmp_path: Path) -> None:
    def request() -> None:
        client = connect(idle.redis_url)
        trigger(client, reason="new market", requested_by="test")
        client.close()
        until(lambda: len(idle.store.history(limit=5)) == 2)
        until(lambda: not idle.driver.is_idle)

    served(idle, signals, tmp_path, request)


def test_what_another_process_stores_is_relayed(idle: Components, signals: Signals, tmp_path: Path) -> None:
    passes = []
    run = idle.relay.run

    def counted(*, at_once: bool = False) -> None:
        passes.append(at_once)
        run(at_once=at_once)

    idle.relay.run = counted  # type: ignore[method-assign]

    def store() -> None:
        before = len(passes)
        with StateDb(idle.configuration.settings.state_path / "state.db", is_owner=False) as other:
            other.remember("test", "value")
        until(lambda: len(passes) > before)

    served(idle, signals, tmp_path, store)


def test_a_removed_state_database_ends_it(idle: Components, signals: Signals, tmp_path: Path) -> None:
    def remove() -> None:
        (idle.configuration.settings.state_path / "state.db").unlink()
        until(lambda: idle.driver.is_stopping)

    with pytest.raises(StateError):
        served(idle, signals, tmp_path, remove)
