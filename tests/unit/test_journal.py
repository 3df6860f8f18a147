"""The log: one line per record, no password, and a caller that is never blocked."""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from retrain_worker.adapters import journal
from retrain_worker.adapters.journal_stream import is_journal
from retrain_worker.adapters.nonblocking_writer import LineWriter
from retrain_worker.domain.masking import masked
from retrain_worker.errors import SlotError


@dataclass(frozen=True, kw_only=True)
class Records:
    """The log in a file; call it to read the lines."""

    read: Callable[[], list[str]]
    #: configures the log anew
    configure: Callable[..., None]

    def __call__(self) -> list[str]:
        return self.read()


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    before = logging.root.handlers[:], logging.root.level
    path = tmp_path / "log"
    with path.open("w") as stream:
        made = {}

        def configure(**settings: Any) -> None:
            made["journal"] = journal.configure(stream=stream, **{"form": "json", **settings})

        def read() -> list[str]:
            assert made["journal"].flush(30)
            return path.read_text().splitlines()

        configure()
        yield Records(read=read, configure=configure)
        made["journal"].flush(30)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = before


def parsed(line: Any) -> tuple[int, Any]:
    assert line[0] == "<"
    assert line[2] == ">"
    return int(line[1]), json.loads(line[3:])


def test_a_record_is_one_line_with_its_priority(records: Records) -> None:
    log = journal.get_logger(run_id="20260110_033000")
    log.info("stage_done", message="the pull is done\nand well", rows=7)
    log.warning("gate_failed")
    log.error("run_failed")
    log.debug("too_much")
    lines = [parsed(line) for line in records()]
    assert [priority for priority, _ in lines] == [6, 4, 3]
    first = lines[0][1]
    assert (first["event"], first["message"], first["rows"], first["run_id"]) == (
        "stage_done",
        "the pull is done\nand well",
        7,
        "20260110_033000",
    )
    assert first["timestamp"].endswith("Z")


def test_the_level_is_a_setting(records: Records) -> None:
    records.configure(level="debug")
    journal.get_logger().debug("detail")
    assert parsed(records()[0])[0] == 7


def test_passwords_are_masked_in_every_field(records: Records) -> None:
    journal.get_logger().info(
        "connected",
        message="redis://u:hunter2@h/0",
        fields={"dsn": ["password=hunter2"]},
        error=RuntimeError("postgresql://u:hunter2@h/d"),
    )
    assert "hunter2" not in records()[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:pa:ss@h/0", "redis://:***@h/0"),
        ("a postgresql+psycopg://u:p%40@h:5/d b", "a postgresql+psycopg://u:***@h:5/d b"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("http://user@h/", "http://user@h/"),
        ("PGPASSWORD=x y", "PGPASSWORD=*** y"),
        ("password: 'secret'", "password: '***'"),
    ],
)
def test_masking_removes_only_the_password(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_an_error_is_one_field_and_one_line(records: Records) -> None:
    def fail(error: Any) -> None:
        raise error

    try:
        fail(SlotError("it is gone", where="/etc/x", remedy="make it"))
    except SlotError:
        journal.get_logger().error("swap_failed", exc_info=True)
    try:
        fail(ValueError("what\nis this"))
    except ValueError as error:
        journal.get_logger().error("swap_failed", exc_info=error)
    ours, other = (parsed(line)[1] for line in records())
    assert (ours["error_type"], ours["error"]) == ("SlotError", "/etc/x: it is gone; make it")
    assert "test_journal.py" in other["error"]
    assert "stack" not in ours
    assert "in fail" in other["stack"]


def test_records_of_libraries_and_warnings_have_the_same_form(records: Records) -> None:
    logging.getLogger("redis").warning("job %s missed", "x")
    logging.getLogger("redis").info("not heard")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    first, second = (parsed(line)[1] for line in records())
    assert (first["event"], first["library"], first["message"]) == ("library_message", "redis", "job x missed")
    assert "old ways" in second["message"]


def test_a_record_that_the_journal_would_cut_is_shortened(records: Records) -> None:
    journal.get_logger().info("big", message="m", numbers=list(range(50_000)))
    (line,) = records()
    assert len(line) < 48 * 1024
    assert parsed(line)[1]["left_out_bytes"] > 48 * 1024


def test_text_format_is_one_line_per_record(records: Records) -> None:
    records.configure(form="text")
    journal.get_logger().info("stage_done", message="pull\ndone", rows=7)
    (line,) = records()
    assert line.endswith("pull done rows=7")


def test_the_journal_is_known_by_its_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert is_journal(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        assert not is_journal(stream.fileno())


def test_the_error_of_a_failed_start_is_one_in_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}", "RETRAIN_INTERVAL_H": "banana"}
        command = [sys.executable, "-m", "retrain_worker", "run", "--home", str(tmp_path / "home")]
        assert subprocess.run(command, stderr=stream, env=environment, check=False).returncode == 78

    assert (tmp_path / "log").read_text().startswith("<3>retrain-worker: ")


def test_a_reader_that_stops_reading_does_not_block_the_writer() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):  # until the pipe is full
        while True:
            os.write(write_end, bytes(select.PIPE_BUF))
    os.set_blocking(write_end, True)
    writer = LineWriter(write_end, max_lines=10)
    for _ in range(100_000):
        writer.put(b"x\n")
    assert writer.num_dropped >= 100_000 - 11
    os.close(read_end)
    assert writer.flush(30)
    os.close(write_end)


def test_the_number_of_dropped_records_is_reported_once_the_reader_reads_again() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, b"full\n")
    os.set_blocking(write_end, True)
    writer = LineWriter(write_end, max_lines=10, about_dropped=lambda num_dropped: b"lost %d\n" % num_dropped)
    for _ in range(30):
        writer.put(b"x\n")
    lost = writer.num_dropped
    found = b""
    while b"lost" not in found:
        found += os.read(read_end, 65536)
    assert writer.flush(30)
    writer.put(b"y\n")
    assert writer.flush(30)
    found += os.read(read_end, 65536)
    os.close(write_end)
    os.close(read_end)
    assert found.endswith(b"x\nlost %d\ny\n" % lost)


def test_dropped_records_are_reported_in_a_record_of_the_same_form() -> None:
    record = json.loads(journal._as_json_line(None, "warning", journal._about_dropped(3))[3:])
    assert (record["event"], record["level"]) == ("records_lost", "warning")
    assert record["message"].startswith("3 log records were dropped")


def test_a_closed_stderr_raises_no_error() -> None:
    script = (
        "import os; from retrain_worker.adapters import journal\n"
        "j = journal.configure(form='json'); os.close(2)\n"
        "for _ in range(10): journal.get_logger().info('said')\n"
        "print(j.flush(30))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
