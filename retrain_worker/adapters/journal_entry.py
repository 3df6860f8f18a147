"""A record as an entry of the journal, with its own fields, for `journalctl RUN_ID=...`, `EVENT=...`, `-p`, `-x`.

The format is the journal's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram per entry. It is
implemented here because no library fits a daemon that must not block: cysystemd holds the interpreter's lock while it
sends, so a journal that does not read would stop every thread; systemd-python has no wheels and needs a compiler.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

SOCKET = "/run/systemd/journal/socket"
#: explained in systemd/retrain-worker.catalog, which holds the same ids (a test compares them)
MESSAGE_IDS = {
    "ready": "56a5a8e6c2604f82af6e4de6d36e6076",
    "run_started": "b2aaff6586aa4c18a6a0de4039a6a4bb",
    "run_promoted": "64bc121a527546c784fc83e57895874e",
    "run_refused": "aa508ae87b534482a3ccba6803ca2ac2",
    "run_skipped": "6fa6b315c0c148d9beaf98e1df5139ce",
    "run_failed": "242314f2f19240e5b4c96913e9984b6f",
    "run_abandoned": "294d884b472740fda04d84c15d301076",
    "run_rolled_back": "e42a732464784e1d8e928343dfba179a",
    "redis_problem": "bd96cc21d44d4a2cbb2d561474d6345f",
    "reloaded": "45bedc169f1b4a24afd4934e77ad4aa6",
    "reload_rejected": "f49bce275c9a41398f80a14bc9791c23",
    "job_stuck": "3677143645494599a01e74a0d4a97fa3",
    "unexpected_error": "4eca60126dc14917be1391e7e6c95dfa",
    "engine_restarted": "23f20c819cca4004a355983ec1c2adac",
    "engine_not_restarted": "683cfd0a354e40a3adfb75e9fb705365",
}
_IDENTIFIER = "retrain-worker"
#: sent as fields of the journal's own
_LEFT_OUT = frozenset({"event", "message", "timestamp", "level"})


def connected(path: str = SOCKET) -> int | None:
    """A descriptor on which each write is one entry; None where there is no journal."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
            opened.connect(path)
            return opened.detach()
    except OSError:
        return None


def entry_of(record: Mapping[str, Any], *, priority: int) -> bytes:
    """The datagram of one record: its message, its event, and each other field in capitals."""
    return b"".join(_encoded(name, value) for name, value in _fields(record, priority))


def _fields(record: Mapping[str, Any], priority: int) -> Iterator[tuple[str, str]]:
    event = str(record.get("event", ""))
    yield "MESSAGE", str(record.get("message") or event)
    yield "PRIORITY", str(priority)
    yield "SYSLOG_IDENTIFIER", _IDENTIFIER
    yield "EVENT", event
    kind = event
    if event == "run_finished":
        kind = f"run_{record.get('outcome', '')}".lower()
        # a field may have two values: EVENT=gate_refused finds some of what EVENT=run_finished finds
        yield "EVENT", f"{record.get('stage', '')}_{record.get('outcome', '')}".lower()
    if kind in MESSAGE_IDS:
        yield "MESSAGE_ID", MESSAGE_IDS[kind]
    for name, value in record.items():
        if name not in _LEFT_OUT and value is not None:
            yield _field_name(name), value if isinstance(value, str) else orjson.dumps(value).decode()


def _field_name(name: str) -> str:
    """At most 64 letters, digits and _, without _ at either end."""
    return "".join(each if each.isascii() and each.isalnum() else "_" for each in name).strip("_").upper()[:64]


def _encoded(name: str, value: str) -> bytes:
    content = value.encode(errors="replace")
    if b"\n" not in content:
        return b"%s=%s\n" % (name.encode(), content)
    return b"%s\n%s%s\n" % (name.encode(), len(content).to_bytes(8, "little"), content)
