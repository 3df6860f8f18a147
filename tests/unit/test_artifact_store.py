"""The folders of runs: where they are, and which of them may go."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.errors import SlotError, StateError

IDS = [f"20260110_12000{n}" for n in range(6)]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(model_path=tmp_path / "models", checkpoint_path=tmp_path / "checkpoints")


def test_the_folders_of_a_run_are_made_where_they_belong(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.run_dir(IDS[0]) == tmp_path / "models" / "runs" / IDS[0]
    assert store.checkpoint_dir(IDS[0]) == tmp_path / "checkpoints" / "runs" / IDS[0]
    assert store.run_dir(IDS[0]).is_dir()
    assert store.checkpoint_dir(IDS[0]).is_dir()
    assert store.folds_dir() == tmp_path / "checkpoints" / "runs" / "folds"


@pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "/etc", "20260110_120000/..", "20260110_120000\n", "x"])
def test_only_ids_of_runs_become_paths(store: ArtifactStore, run_id: str) -> None:
    for call in (store.run_dir, store.checkpoint_dir):
        with pytest.raises(StateError):
            call(run_id)


def test_a_folder_that_cannot_be_made_is_named(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(SlotError, match="models"):
        store.run_dir(IDS[0])


@given(keep=st.integers(0, 8), protected=st.sets(st.sampled_from(IDS)), by_path=st.booleans())
def test_the_newest_and_the_protected_stay_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    keep: Any,
    protected: Any,
    by_path: Any,
) -> None:
    root = tmp_path_factory.mktemp("store")
    store = ArtifactStore(model_path=root / "models", checkpoint_path=root / "checkpoints")
    for run_id in IDS:
        (store.run_dir(run_id) / "candidate").mkdir()
        store.checkpoint_dir(run_id)
    (root / "models" / "runs" / "notes").mkdir()
    named = {store.run_dir(run_id) / "candidate" / "x.pth" if by_path else run_id for run_id in protected}
    gone = store.remove_old_runs(keep=keep, protected=named)
    stayed = set(IDS[max(0, len(IDS) - keep) :]) | protected
    assert set(gone) == set(IDS) - stayed
    assert set(store.run_ids()) == stayed
    assert {path.name for path in (root / "checkpoints" / "runs").iterdir()} == stayed
    assert (root / "models" / "runs" / "notes").is_dir()


def test_a_removal_that_was_cut_short_is_finished_at_the_next_start(
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (store.run_dir(IDS[0]) / "weights").write_bytes(b"x")
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.remove_old_runs(keep=0, protected=())
    monkeypatch.undo()
    assert store.run_ids() == ()
    store.sweep()
    assert list((tmp_path / "models" / "runs").iterdir()) == []


def test_checkpoints_of_earlier_versions_are_moved_to_the_directory_of_this_program(
    store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints" / IDS[0]).mkdir(parents=True)
    (tmp_path / "checkpoints" / IDS[0] / "state").touch()
    (tmp_path / "checkpoints/of_another_service").mkdir()
    store.sweep()

    assert (store.checkpoint_dir(IDS[0]) / "state").exists()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["of_another_service", "runs"]
