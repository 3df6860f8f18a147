"""The swap and its recovery, killed and starved by strace, without power on a model: a sample of `make test-faults`.

What must hold is said in slot_scene.py: after the fault the engine could start; after one restart it happened wholly or
not at all, and is told so; nothing is left over; the next run works.
"""

import random
from pathlib import Path

import pytest

from tests.faults import power_loss, slot_scene, strace_sweep

pytestmark = pytest.mark.skipif(strace_sweep.STRACE is None, reason="strace injects the faults and records the calls")


@pytest.mark.parametrize("kind", slot_scene.SCENES)
def test_killed_and_starved_anywhere_the_slot_is_whole_and_one_restart_mends_the_rest(
    tmp_path: Path,
    kind: str,
) -> None:
    tally = strace_sweep.sweep(tmp_path, step=41, recovery_step=97, kinds=[kind])

    assert tally.violations == []
    assert {"SIGKILL in the swap", "SIGKILL in the recovery", "short write", "EIO", "ENOSPC"} <= set(tally.tried)


@pytest.mark.parametrize("kind", slot_scene.SCENES)
def test_a_power_loss_in_any_state_it_may_leave_is_mended_by_one_restart(tmp_path: Path, kind: str) -> None:
    losses = power_loss.lose_power(tmp_path, kind, step=31)

    assert losses.violations == []
    assert losses.different > losses.instants > 1


def test_the_model_of_the_disk_finds_a_file_that_was_renamed_before_it_was_durable(tmp_path: Path) -> None:
    disk = power_loss.Disk.of(tmp_path)
    disk.created(str(tmp_path / "new")).pending.append(power_loss.Change(0, b"x" * 2048))
    disk.renamed(str(tmp_path / "new"), str(tmp_path / "env"))
    found = {state.get(str(tmp_path / "env")) for state in disk.crash_states(random.Random(1))}

    assert found == {None, b"", b"x" * 2048, b"x" * 1024, bytes(2048)}
    disk.synced(disk.names[str(tmp_path / "env")])
    assert {state.get(str(tmp_path / "env")) for state in disk.crash_states(random.Random(1))} == {
        None,
        b"x" * 2048,
    }
    disk.directory_synced(str(tmp_path))
    assert [state.get(str(tmp_path / "env")) for state in disk.crash_states(random.Random(1))] == [b"x" * 2048]
