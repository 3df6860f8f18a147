"""A worker outside any run: its folder goes with it, but not the log that an error names."""

import re
import sys
from pathlib import Path

import pytest

from retrain_worker.daemon import one_off_task
from retrain_worker.domain.worker_protocol import InspectRequest, OneOffTask
from retrain_worker.errors import WorkerFailedError


def run(script: str) -> None:
    command = (sys.executable, "-c", script)
    with one_off_task._worker({OneOffTask.INSPECT: 60.0}, report=lambda _: None, command=command) as worker:
        Path(worker.folder, "snapshot").mkdir()
        worker.result_of(OneOffTask.INSPECT, InspectRequest(paths=(b"/m.pth",)))


def test_the_log_that_an_error_names_is_there_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(WorkerFailedError, match="ended with exit status 9") as caught:
        run("import sys; print('no such symbol', file=sys.stderr); sys.exit(9)")
    (named,) = re.findall(r"see (\S+\.log)", str(caught.value))
    assert "no such symbol" in Path(named).read_text()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(named).name]
    assert not list(tmp_path.rglob("snapshot"))


def test_nothing_is_left_where_no_log_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), one_off_task._worker({}, report=lambda _: None) as worker:
        Path(worker.folder, "inspect.log").write_text("started")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
