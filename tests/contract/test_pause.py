"""A pause holds every promotion, on the command line and in the daemon, until it is over."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import cli
from retrain_worker.daemon.status import status_line
from retrain_worker.domain.lifecycle import Stage
from retrain_worker.domain.pause import Pause
from retrain_worker.domain.quantity import duration_of
from retrain_worker.errors import RedisUnavailableError, UsageError
from tests.daemon_home import an_ended_run, opened_components
from tests.redis_world import RedisServer

NOW = datetime.now(UTC)


def said(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> str:
    """What a command on this home prints."""
    arguments = cli.parse([*words, "--home", str(home)])
    assert arguments.execute(arguments) == 0
    return capsys.readouterr().out


def test_a_pause_is_stored_beside_a_running_daemon_and_holds_its_runs(
    components: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home = components.configuration.settings.home
    an_ended_run(components, NOW - timedelta(days=2))
    assert "until 20" in said(capsys, home, "pause", "--reason", "fees  change", "--for", "3d")
    components.driver.run_pass()

    assert components.store.unfinished_run() is None
    assert "promotions are paused until" in status_line(components)
    assert "fees change)" in (shown := said(capsys, home, "status"))
    assert "next run" not in shown

    assert "no longer paused" in said(capsys, home, "resume")
    assert "there was no pause" in said(capsys, home, "resume")
    components.driver.run_pass()
    assert components.store.unfinished_run() is not None


def test_a_pause_before_the_first_start_and_one_that_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home/state").mkdir(parents=True)
    said(capsys, tmp_path / "home", "pause", "--reason", "not yet")
    with opened_components(tmp_path / "home") as components:
        components.driver.run_pass()
        assert components.store.history(9) == []

        past = Pause(by="ada", reason="x", since=NOW - timedelta(hours=2), until=NOW - timedelta(hours=1))
        components.store.set_pause(past)
        assert "paused" not in said(capsys, tmp_path / "home", "status")
        components.driver.run_pass()
        assert len(components.store.history(9)) == 1


def test_during_a_pause_runs_may_be_trained_for_the_record(tmp_path: Path) -> None:
    with opened_components(tmp_path / "home", TRAIN_WHILE_PAUSED="true") as components:
        components.store.set_pause(Pause(by="ada", reason="x", since=NOW))
        components.driver.run_pass()

        assert components.store.unfinished_run() is not None


def test_a_request_during_a_pause_starts_a_run_after_it(
    tmp_path: Path, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened_components(tmp_path / "home", REDIS_URL=redis_server.url) as components:
        an_ended_run(components, NOW)
        components.store.set_pause(Pause(by="ada", reason="x", since=NOW))
        trigger = cli.parse(["trigger", "--force", "--reason", "new data", "--home", str(tmp_path / "home")])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REDIS_URL", redis_server.url)
            assert trigger.execute(trigger) == 0
        components.retrain_requests.run()
        components.driver.run_pass()
        assert components.store.unfinished_run() is None

        components.store.set_pause(None)
        components.driver.run_pass()
        run = components.store.unfinished_run()
        assert run.request_reason.endswith(": new data")
        assert run.facts.request.is_forced


def test_a_trigger_while_redis_is_down_is_stored_for_the_daemon(
    components: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = components.configuration.settings.home
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    assert "the first run starts with the daemon" in said(capsys, home, "trigger")
    an_ended_run(components, NOW)
    assert "the request is stored; the daemon starts the run at once" in said(capsys, home, "trigger")
    assert "queued already" in said(capsys, home, "trigger")
    assert "stored" in said(capsys, home, "trigger", "--force")
    components.driver.run_pass()

    run = components.store.unfinished_run()
    assert (run.requested_by, run.facts.request.is_forced) == ("trigger", True)
    assert "when run" in said(capsys, home, "trigger")
    assert run.stage is Stage.PULL


def test_a_trigger_without_redis_and_without_a_state_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    arguments = cli.parse(["trigger", "--home", str(tmp_path)])
    with pytest.raises(RedisUnavailableError):
        arguments.execute(arguments)


@pytest.mark.parametrize(("text", "hours"), [("90min", 1.5), ("12h", 12), ("3d", 72), ("0.5 d", 12)])
def test_a_duration_has_a_unit(text: str, hours: float) -> None:
    assert duration_of(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["3", "3w", "-1h", "0h", "", "1h30"])
def test_another_duration_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="not a duration like 90min, 12h or 3d"):
        cli.parse(["pause", "--reason", "x", f"--for={text}"])
