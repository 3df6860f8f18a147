"""ENGINE_CONFIRM=unit: a start of the unit counts when the env line named the model by then, and no other."""

from datetime import UTC, datetime, timedelta

import pytest

from retrain_worker.adapters.engine_unit import UnitConfirmations

TOLD_AT = datetime(2026, 1, 10, 3, 30, 0, 400_000, tzinfo=UTC)


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """What `systemctl show` says, from now on."""

    def says(text, *, code=0):
        program = tmp_path / "systemctl"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return says


def seen():
    return UnitConfirmations("quantum-ai-engine.service").seen_serving(
        version="patchtst_v1", sha256="aa", model_path="/m.pth", since=TOLD_AT
    )


def shown(at, state="active"):
    return f"ActiveState={state}\nExecMainStartTimestamp={at:%a %Y-%m-%d %H:%M:%S.%f} UTC"


def test_a_unit_that_was_started_after_it_was_told_serves_the_model(systemctl):
    systemctl(shown(TOLD_AT + timedelta(milliseconds=300)))

    assert seen() == (
        "quantum-ai-engine.service was started at 03:30:00 UTC with PATCHTST_MODEL_PATH naming patchtst_v1"
    )


def test_a_start_within_the_same_second_but_before_it_was_told_confirms_nothing(systemctl):
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
def test_what_is_not_at_work_or_cannot_be_asked_confirms_nothing(systemctl, text, code):
    systemctl(text, code=code)

    assert seen() is None


def test_a_host_without_systemctl_confirms_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert seen() is None
