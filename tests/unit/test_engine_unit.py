"""ENGINE_CONFIRM=unit: a start of the unit counts when the env line named the model by then, and no other."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker.adapters.engine_unit import UnitConfirmations

TOLD_AT = datetime(2026, 1, 10, 3, 30, 0, 400_000, tzinfo=UTC)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `systemctl show` says, from now on."""

    def says(text: Any, *, code: int = 0) -> None:
        program = tmp_path / "systemctl"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return says


def seen() -> Any:
    return UnitConfirmations("quantum-ai-engine.service").seen_serving(
        version="patchtst_v1", sha256="aa", model_path="/m.pth", since=TOLD_AT
    )


def shown(at: Any, state: str = "active") -> str:
    return f"LoadState=loaded\nActiveState={state}\nExecMainStartTimestamp={at:%a %Y-%m-%d %H:%M:%S.%f} UTC"


def test_a_unit_that_was_started_after_the_swap_serves_the_model(systemctl: Any) -> None:
    systemctl(shown(TOLD_AT + timedelta(milliseconds=300)))

    assert seen() == (
        "quantum-ai-engine.service was started at 03:30:00 UTC with PATCHTST_MODEL_PATH naming patchtst_v1"
    )


def test_a_start_in_the_same_second_but_before_the_swap_confirms_nothing(systemctl: Any) -> None:
    systemctl(shown(TOLD_AT - timedelta(milliseconds=300)))

    assert seen() is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (shown(TOLD_AT + timedelta(seconds=5), "activating"), 0),
        (shown(TOLD_AT + timedelta(seconds=5), "failed"), 0),
        ("ActiveState=active\nExecMainStartTimestamp=", 0),
        ("ActiveState=active\nExecMainStartTimestamp=n/a", 0),
        ("", 0),
        (shown(TOLD_AT + timedelta(seconds=5)), 1),
    ],
)
def test_a_unit_that_is_not_active_or_unknown_confirms_nothing(systemctl: Any, text: str, code: int) -> None:
    systemctl(text, code=code)

    assert seen() is None


def test_a_host_without_systemctl_confirms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert seen() is None


@pytest.mark.parametrize(
    ("text", "is_loaded"), [("LoadState=loaded", True), ("LoadState=not-found", False), ("", False)]
)
def test_a_unit_that_systemd_does_not_have_cannot_confirm(systemctl: Any, text: str, is_loaded: bool) -> None:
    systemctl(text)

    assert UnitConfirmations("quantum-ai-engine.service").is_loaded() is is_loaded
