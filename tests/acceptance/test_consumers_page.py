"""docs/how-to/consume-events.md is true: what it prints is run, as it is printed, against a real Redis."""

import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from retrain_worker.domain import payloads
from retrain_worker.domain.events import CURRENT_MODEL_KEY, REQUEST_STREAM, Event, EventType
from tests.redis_world import Publish, RedisServer, an_event

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/consume-events.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def a_run() -> tuple[Event, Event, Event, Event]:
    at = datetime(2026, 1, 10, tzinfo=UTC)
    slot = {"new_version": "patchtst_v2", "old_version": "patchtst_v1", "model_path": "/m.pth", "sha256": "00"}
    return (
        an_event(1, EventType.STARTED, at=at),
        an_event(1, EventType.PROMOTED, at=at, auc=0.8164, promoted_at=at.isoformat(), **slot),
        an_event(
            1,
            EventType.ROLLED_BACK,
            at=at,
            reason="worse than the one before",
            rolled_back_at=at.isoformat(),
            **{**slot, "new_version": "patchtst_v1", "old_version": "patchtst_v2"},
        ),
        an_event(1, EventType.SKIPPED, at=at, reasons=["12 new rows, 200 wanted", "and old"]),
    )


def test_the_consumer_has_at_most_twenty_lines_and_is_what_the_demo_runs() -> None:
    consumer = blocks("python")[0]

    assert len(consumer.splitlines()) <= 20
    assert consumer == (ROOT / "retrain_worker" / "demo" / "consumer.py").read_text()


def test_the_consumer_as_printed_prints_each_event_once_also_when_it_is_restarted(
    publish: Publish,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    script = tmp_path / "consumer.py"
    script.write_text(blocks("python")[0])
    printed = []
    for events in (a_run()[:2], a_run()[2:]):
        publish(*events)
        process = subprocess.Popen(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "REDIS_URL": redis_server.url},
        )
        try:
            assert process.stdout is not None
            printed += [process.stdout.readline() for _ in events]
            time.sleep(0.2)
        finally:
            process.kill()
            process.communicate()

    assert sorted(line.strip() for line in printed) == sorted(
        [
            "learning.retraining.started skipped",
            "patchtst_v2 replaces patchtst_v1, AUC 0.816",
            "patchtst_v1 returned: worse than the one before",
            "learning.retraining.skipped skipped 12 new rows, 200 wanted",
        ]
    )


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli on this host")
def test_the_redis_cli_lines_work_as_printed(
    publish: Publish,
    redis_server: RedisServer,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    publish(*a_run())
    wrapper = tmp_path / "redis-cli"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("redis-cli")} -s {redis_server.socket} "$@"\n')
    wrapper.chmod(0o755)

    done = subprocess.run(
        ["sh", "-e"],
        input=blocks("sh")[0],
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )

    assert done.returncode == 0, done.stderr
    assert "ERR" not in done.stdout
    assert "model.promoted" in done.stdout
    version = client.hget(CURRENT_MODEL_KEY, "version")
    assert isinstance(version, bytes)
    assert version.decode() in done.stdout
    assert client.xpending("quantum:stream:model.promoted", "my_shell")["pending"] == 0
    assert client.xlen(REQUEST_STREAM) == 1


def test_the_entry_shown_has_the_fields_that_we_write() -> None:
    shown = blocks("text")[1].splitlines()[2:]

    assert [line.split()[0] for line in shown][-8:] == [
        "event_type",
        "payload",
        "trace_id",
        "correlation_id",
        "timestamp",
        "source",
        "event_id",
        "schema_version",
    ]
    assert {line.split()[0] for line in shown} <= set(payloads.Entry.__annotations__)
