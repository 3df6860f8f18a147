"""Notifies the service manager over $NOTIFY_SOCKET (sd_notify(3)); without that variable nothing is sent.

The socket is sdnotify's. Its `notify` encodes Latin-1, which drops most of Unicode, and its socket blocks while the
manager does not read (sdnotify 0.3.2): here the text is encoded so that it survives the former, and the socket is made
non-blocking. A message that cannot be sent is dropped; no error is raised.
"""

from __future__ import annotations

import os
import time

from sdnotify import SystemdNotifier

from retrain_worker.domain.masking import masked

#: the manager reads at most 4096 bytes of a message
_STATUS_BYTES = 1024
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """The daemon's end of the socket."""

    def __init__(self) -> None:
        """Remove the variables from the environment, so that no worker can send in the name of the daemon."""
        socket_name, watchdog_usec, watchdog_pid = (os.environ.get(name) for name in _VARIABLES)
        self._notifier: SystemdNotifier | None = None
        self._last_status = ""
        self._watchdog_seconds = _watchdog_seconds(watchdog_usec, watchdog_pid)
        try:
            if socket_name:
                self._notifier = SystemdNotifier(debug=True)
                self._notifier.socket.setblocking(False)
        except OSError:
            self._notifier = None  # a service manager that cannot be reached must not keep the daemon from running
        finally:
            for name in _VARIABLES:
                os.environ.pop(name, None)

    @property
    def watchdog_interval_seconds(self) -> float | None:
        """How often `watchdog` is to be called: half of the manager's limit; None without a watchdog."""
        return None if self._watchdog_seconds is None else self._watchdog_seconds / 2

    def ready(self, status: str) -> bool:
        """The start, or a reload, is finished. Whether the message was sent."""
        self._last_status = _one_line(status)
        return self._send(f"READY=1\nSTATUS={self._last_status}")

    def status(self, text: str) -> bool:
        """Set STATUS= to `text`, if that is new. Whether a message was sent."""
        line = _one_line(text)
        if line == self._last_status or not self._send(f"STATUS={line}"):
            return False
        self._last_status = line
        return True

    def reloading(self) -> bool:
        """A reload has begun; `ready` must follow. systemd 253 and later require MONOTONIC_USEC."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "stopping") -> bool:
        """The stop has begun."""
        self._last_status = _one_line(status)
        return self._send(f"STOPPING=1\nSTATUS={self._last_status}")

    def watchdog(self) -> bool:
        """Every job has returned in time."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket; nothing is sent any more."""
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    def _send(self, message: str) -> bool:
        if self._notifier is None:
            return False
        try:
            # Latin-1 maps each of these characters to one byte of UTF-8.
            self._notifier.notify(message.encode().decode("latin-1"))
        except OSError:
            return False
        return True


def _watchdog_seconds(usec: str | None, pid: str | None) -> float | None:
    """The manager's limit, if it is meant for this process."""
    if not usec or not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000


def _one_line(text: str) -> str:
    """`text` without passwords, line ends and other control characters, in at most _STATUS_BYTES."""
    line = " ".join(masked("".join(each if each.isprintable() else " " for each in text)).split())
    return line.encode("utf-8", "replace")[:_STATUS_BYTES].decode("utf-8", "ignore")
