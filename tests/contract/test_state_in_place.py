"""The daemon stops when its state is removed or replaced, and begins no new history by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from retrain_worker.daemon.wiring import open_components
from retrain_worker.errors import StateError
from retrain_worker.settings import load


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@pytest.mark.parametrize("name", ["state.db", "lock"])
@pytest.mark.parametrize(("change", "reported"), [(removed, "removed"), (replaced, "replaced by another file")])
def test_a_changed_file_is_noticed(tmp_path: Path, name: str, change: Callable[[Path], None], reported: str) -> None:
    with open_components(load({}, home=tmp_path, db="trader.db")) as components:
        components.check_state()
        change(tmp_path / "state" / name)
        with pytest.raises(StateError, match=f"{name}: {reported} while this process uses it"):
            components.check_state()


def test_a_missing_state_beside_runs_is_not_made_anew(tmp_path: Path) -> None:
    settings = load({}, home=tmp_path, db="trader.db")
    with open_components(settings) as components:
        components.run_folders.run_dir("20260110_033000")
    (tmp_path / "state/state.db").unlink()

    with pytest.raises(StateError, match=r"missing, but there are 1 runs in .*touch "), open_components(settings):
        pass

    assert not (tmp_path / "state/state.db").exists()
    (tmp_path / "state/state.db").touch()
    with open_components(settings) as components:
        assert components.store.history(9) == []
