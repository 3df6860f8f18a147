"""Text of other processes in the output of a command: each line stays one, and no terminal obeys it."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.__main__ import main
from retrain_worker.domain.lifecycle import Deployment, DeploymentKind, DeploymentState
from retrain_worker.domain.slot_request import SlotRequestArguments, SlotRequestKind
from tests.daemon_home import opened_components

FOREIGN = "engine\x1b[2J\x1b]0;title\x07\x9b31m\nserving   /opt/forged.pth\r\u202e"
NOW = datetime(2026, 1, 10, 3, 30, tzinfo=UTC)
DEPLOYMENT = Deployment(
    deployment_id="d",
    run_id=None,
    kind=DeploymentKind.ROLLBACK,
    version="v",
    model_path="/m/v.pth",
    sha256="a" * 64,
    size_bytes=1,
    previous_version=None,
    previous_model_path=None,
    state=DeploymentState.CONFIRMED,
    created_at=NOW,
    updated_at=NOW,
    requested_by=FOREIGN,
    reason=FOREIGN,
    confirmation=f"follower {FOREIGN} answers with v",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose history holds such text, as versions before have stored it."""
    home = tmp_path / "home"
    with opened_components(home) as components:
        store = components.store
        store.record_deployment(DEPLOYMENT)
        request = store.open_slot_request(
            SlotRequestKind.ROLLBACK,
            arguments=SlotRequestArguments(),
            requested_by=FOREIGN,
            reason=FOREIGN,
            at=NOW,
        )
        store.record_slot_request(replace(request, answer=FOREIGN))
        run, _ = store.open_run(requested_by="trigger", reason=FOREIGN, at=NOW)
        store.record(replace(run, reasons=(FOREIGN,)))
    return home


@pytest.mark.parametrize("verb", ["status", "deployments", "history"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_command_prints_no_control_character_of_another_process(
    verb: str, form: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["retrain-worker", verb, "--home", str(home), *form])
    main()
    shown: Any = capsys.readouterr()
    lines = shown.out.splitlines()

    assert "engine" in shown.out
    assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()]
    assert not any(line.startswith("serving   /opt/forged") for line in lines)
