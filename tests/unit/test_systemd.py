"""The datagrams that the service manager gets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.adapters.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield server


@pytest.fixture
def notifier(manager: Any) -> Iterator[Notifier]:
    made = Notifier()
    yield made
    made.close()


def heard(server: Any) -> list[Any]:
    found = []
    while True:
        try:
            found.append(server.recv(8192))
        except BlockingIOError:
            return found


def test_the_messages_of_a_daemon_arrive_in_order(manager: Any, notifier: Notifier) -> None:
    notifier.ready("waiting")
    notifier.status("training, epoch 3")
    notifier.status("training, epoch 3")
    notifier.watchdog()
    notifier.stopping("stopping")
    assert heard(manager) == [
        b"READY=1\nSTATUS=waiting",
        b"STATUS=training, epoch 3",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=stopping",
    ]


def test_a_reload_sends_its_instant(manager: Any, notifier: Notifier) -> None:
    notifier.reloading()
    notifier.ready("reloaded")
    first, second = heard(manager)
    name, _, usec = first.removeprefix(b"RELOADING=1\n").partition(b"=")
    assert (name, second) == (b"MONOTONIC_USEC", b"READY=1\nSTATUS=reloaded")
    assert int(usec) > 0


@pytest.mark.parametrize("text", ["Δ\nREADY=1", "a\r\nSTOPPING=1", "x\0y", "\x1b[31mred", "a\u2028b", "Größe — ü"])
def test_a_status_is_one_line_of_utf8_and_one_field(manager: Any, notifier: Notifier, text: str) -> None:
    notifier.status(text)
    (datagram,) = heard(manager)
    line = datagram.decode()
    assert line.startswith("STATUS=")
    assert line.isprintable()
    assert len(datagram.split(b"\n")) == 1


def test_every_character_is_sent_unchanged(manager: Any, notifier: Notifier) -> None:
    notifier.status("Δ loss 0.1 — größer")
    assert heard(manager) == ["STATUS=Δ loss 0.1 — größer".encode()]


def test_a_long_status_is_cut_between_characters(manager: Any, notifier: Notifier) -> None:
    notifier.status("Δ" * 5000)
    (datagram,) = heard(manager)
    assert datagram.decode() == "STATUS=" + "Δ" * 512


def test_no_password_is_sent(manager: Any, notifier: Notifier) -> None:
    notifier.status("waiting for redis://user:hunter2@host/0")
    assert heard(manager) == [b"STATUS=waiting for redis://user:***@host/0"]


def test_a_manager_that_does_not_read_does_not_block(manager: Any, notifier: Notifier) -> None:
    sent = [notifier.status(f"epoch {n}") for n in range(2000)]
    assert not sent[-1]
    heard(manager)
    assert notifier.status("epoch 2000")


def test_messages_to_a_manager_that_has_ended_are_dropped(manager: Any, notifier: Notifier) -> None:
    manager.close()
    assert not notifier.watchdog()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sdnotify forgets to close it
def test_a_missing_socket_raises_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    notifier = Notifier()
    assert not notifier.ready("x")


def test_without_a_manager_nothing_is_sent_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    assert not notifier.ready("x")
    assert notifier.watchdog_interval_seconds is None


def test_workers_do_not_inherit_the_notify_socket(notifier: Notifier, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("60000000", None, 30.0),
        ("60000000", "self", 30.0),
        ("60000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_only_a_watchdog_of_this_process_counts(
    monkeypatch: pytest.MonkeyPatch,
    usec: str,
    pid: str | None,
    interval: float | None,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "self" else pid)
    assert Notifier().watchdog_interval_seconds == interval
