"""Entries of the journal: their fields, and the ids in the catalog."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.adapters import journal_entry
from retrain_worker.adapters.journal_entry import MESSAGE_IDS, entry_of
from retrain_worker.adapters.nonblocking_writer import LineWriter
from tests.known import known

CATALOG = Path(__file__).parents[2] / "systemd/retrain-worker.catalog"


def fields_of(datagram: bytes) -> list[tuple[str, str]]:
    """The fields of one entry, by the rules of the native protocol."""
    found = []
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, size = line, int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found.append((name.decode(), value.decode()))
        datagram = rest
    return found


def test_each_value_is_a_field_of_its_own() -> None:
    record = {
        "event": "run_started",
        "message": "run 1 started",
        "run_id": "1",
        "seconds": {"pull": 1.5},
        "level": "info",
        "timestamp": "x",
        "nothing": None,
    }

    assert fields_of(entry_of(record, priority=6)) == [
        ("MESSAGE", "run 1 started"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "retrain-worker"),
        ("EVENT", "run_started"),
        ("MESSAGE_ID", MESSAGE_IDS["run_started"]),
        ("RUN_ID", "1"),
        ("SECONDS", '{"pull":1.5}'),
    ]


def test_the_end_of_a_run_is_found_by_its_stage_and_outcome_too() -> None:
    fields = fields_of(entry_of({"event": "run_finished", "stage": "GATE", "outcome": "REFUSED"}, priority=6))

    assert [value for name, value in fields if name == "EVENT"] == ["run_finished", "gate_refused"]
    assert ("MESSAGE_ID", MESSAGE_IDS["run_refused"]) in fields


@pytest.mark.parametrize("text", ["two\nlines", "\n", "Δ\nPRIORITY=0", "a=b"])
def test_no_text_can_add_another_field(text: str) -> None:
    fields = fields_of(entry_of({"event": "x", "message": text, "error": text}, priority=3))

    assert dict(fields)["MESSAGE"] == text
    assert dict(fields)["ERROR"] == text
    assert dict(fields)["PRIORITY"] == "3"


@pytest.mark.parametrize(
    ("name", "field"), [("run_id", "RUN_ID"), ("_hidden", "HIDDEN"), ("größe", "GR__E"), ("a" * 99, "A" * 64)]
)
def test_field_names_are_valid_in_the_journal(name: Any, field: Any) -> None:
    assert fields_of(entry_of({"event": "x", name: "1"}, priority=6))[-1] == (field, "1")


def test_the_catalog_explains_every_id_and_no_other() -> None:
    explained = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE)

    assert sorted(explained) == sorted(MESSAGE_IDS.values())
    assert len(set(explained)) == len(MESSAGE_IDS)


def test_a_journal_that_does_not_read_blocks_no_caller(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "journal"))
        writer = LineWriter(known(journal_entry.connected(str(tmp_path / "journal"))))
        for number in range(5_000):
            writer.put(entry_of({"event": "x", "message": str(number)}, priority=6))
        assert writer.num_dropped > 0
        assert ("MESSAGE", "0") in fields_of(receiver.recv(65536))


def test_without_a_journal_there_is_none(tmp_path: Path) -> None:
    assert journal_entry.connected(str(tmp_path / "nobody")) is None
