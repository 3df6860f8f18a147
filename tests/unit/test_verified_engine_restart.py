"""The restart unit: what it refuses, and that it does not miss a swap during a restart."""

import os
from pathlib import Path

import pytest

from retrain_worker.adapters import verified_engine_restart
from retrain_worker.adapters.verified_engine_restart import EngineRestart
from retrain_worker.domain.artifact import checksum_file, checksum_line, manifest_file
from retrain_worker.errors import ArtifactError, SlotError


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine directory with two models, and a systemctl that writes down what it is told."""
    monkeypatch.setattr(verified_engine_restart, "_SETTLE_SECONDS", 0.0)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "systemctl").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\nsh {tmp_path}/then "$1"\n')
    (bin_dir / "systemctl").chmod(0o755)
    (tmp_path / "then").write_text("echo active; exit 0\n")
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    models = tmp_path / "models"
    models.mkdir()
    for day in (1, 2):
        write_model(models / f"patchtst_v2026010{day}_000000.pth", b"weights %d" % day)
    return tmp_path


def write_model(path: Path, content: bytes) -> None:
    import hashlib

    path.write_bytes(content)
    checksum_file(path).write_text(checksum_line(path, hashlib.sha256(content).hexdigest()))


def name(stack: Path, model: object, *lines: object) -> None:
    (stack / "engine.env").write_text("\n".join([f"PATCHTST_MODEL_PATH={model}", *map(str, lines), ""]))


def restart(stack: Path) -> str:
    return EngineRestart(
        engine_models_dir=stack / "models", engine_env_file=stack / "engine.env", unit="engine.service"
    ).restart()


def calls(stack: Path) -> list[str]:
    return (stack / "calls").read_text().splitlines() if (stack / "calls").exists() else []


def test_a_valid_slot_causes_one_restart(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")

    assert restart(stack) == "engine.service was restarted with patchtst_v20260101_000000.pth"
    assert [call for call in calls(stack) if "restart" in call] == ["try-restart engine.service"]


def test_a_swap_during_the_restart_causes_another_restart(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text(
        f'[ "$1" = try-restart ] && sed -i s/v20260101/v20260102/ {stack}/engine.env\necho active\n'
    )

    assert restart(stack) == "engine.service was restarted with patchtst_v20260102_000000.pth"
    assert len([call for call in calls(stack) if "restart" in call]) == 2


def test_an_engine_that_is_not_running_is_not_started(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text("echo inactive; exit 3\n")

    assert "not running" in restart(stack)
    assert not [call for call in calls(stack) if "restart" in call]


def test_a_model_of_the_stack_with_a_name_like_ours_is_accepted(stack: Path) -> None:
    of_the_stack = stack / "models/patchtst_v20260109_233444.pth"
    of_the_stack.write_bytes(b"weights, and nothing beside them")
    name(stack, of_the_stack)

    assert restart(stack) == f"engine.service was restarted with {of_the_stack.name}"


def test_an_invalid_slot_causes_no_restart(stack: Path) -> None:
    model = stack / "models/patchtst_v20260101_000000.pth"
    (stack / "elsewhere.pth").write_bytes(b"x")
    (stack / "models/link.pth").symlink_to(model)
    published = stack / "models/patchtst_v20260103_000000.pth"
    published.write_bytes(b"no checksum beside it")
    manifest_file(published).write_text("{}")
    (stack / "models/folder.pth").mkdir()
    wrong = [
        (stack / "elsewhere.pth",),
        (stack / "models/link.pth",),
        (stack / "models/missing.pth",),
        (stack / "models/../elsewhere.pth",),
        (stack / "models/patchtst_v20260103_000000.pth",),
        (stack / "models/folder.pth",),
        (model, "LD_PRELOAD=/tmp/evil.so"),
        (model, "PYTHONPATH=/tmp"),
    ]
    for lines in wrong:
        name(stack, *lines)
        with pytest.raises((SlotError, ArtifactError)):
            restart(stack)
    model.write_bytes(b"weights 0")
    name(stack, model)
    with pytest.raises(ArtifactError, match="sha256"):
        restart(stack)
    assert calls(stack) == []


def test_an_external_model_needs_no_checksum(stack: Path) -> None:
    (stack / "models/legacy.pth").write_bytes(b"x")
    name(stack, stack / "models/legacy.pth")

    assert "legacy.pth" in restart(stack)


def test_an_engine_that_does_not_stay_active_is_an_error(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text('[ "$1" = try-restart ] && exit 1\necho active\n')

    with pytest.raises(SlotError, match="does not stay active"):
        restart(stack)


def test_a_removed_env_line_causes_a_restart(stack: Path) -> None:
    (stack / "engine.env").write_text("PATCHTST_SHADOW_ONLY=true\n")

    assert restart(stack) == "engine.service was restarted with no model"
    assert "try-restart engine.service" in calls(stack)


def test_an_engine_that_is_starting_may_have_read_the_old_line_and_is_restarted(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text(
        f'[ "$1" = try-restart ] && touch {stack}/up\n[ -e {stack}/up ] && echo active && exit 0\n'
        "echo activating; exit 3\n"
    )

    assert "was restarted with" in restart(stack)
