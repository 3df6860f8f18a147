"""Files of the stack's scripts P0.6 and P0.7: evaluation results as numpy arrays and scalars beside the weights."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from retrain_worker.domain.gates import GateOutcome
from retrain_worker.errors import ArtifactError
from retrain_worker.model import bundle, safe_load
from retrain_worker.model.inspection import inspect
from tests.worker.synthetic_market import NAMES
from tests.worker.test_bundle import engine_state
from tests.worker.test_incumbent import measured
from tests.worker.test_scoring import ENGINE

EVALUATION = {
    "confusion_matrix": confusion_matrix([0, 1, 1], [0, 1, 0]),
    "accuracy": np.float64(0.5683),
    "std": np.float32(0.0027),
    "rows": np.int64(593),
    "collapsed": np.bool_(True),
    "actions": np.array(["BUY", "HOLD"]),
}


def saved_by_numpy_1(content: object) -> bytes:
    """As numpy 1.26, which the engine's environment has, writes it: other names of the same functions."""
    buffer, older = io.BytesIO(), io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(older, "w", zipfile.ZIP_STORED) as renamed:
        for name in archive.namelist():
            renamed.writestr(name, archive.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return older.getvalue()


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [saved, saved_by_numpy_1])
def test_the_weights_beside_an_evaluation_are_read(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "patchtst_v20260110_033000.pth"
    path.write_bytes(save({"model_state_dict": engine_state(), "evaluation": EVALUATION, "feature_names": list(NAMES)}))
    found = safe_load.loaded(path, path.read_bytes())["evaluation"]

    assert found["confusion_matrix"].tolist() == [[1, 0], [1, 1]]
    assert (found["accuracy"], found["rows"], found["actions"].tolist()) == (0.5683, 593, ["BUY", "HOLD"])
    assert bundle.read(path).contract.feature_names == NAMES
    report = inspect(path)
    assert (report.problem, report.refused_globals) == ("", ())


def test_such_an_incumbent_is_measured_and_blocks_no_promotion(tmp_path: Path) -> None:
    path = tmp_path / "patchtst_v20260110_033000.pth"
    path.write_bytes(saved({"model_state_dict": engine_state(), **EVALUATION}))
    evidence, gate = measured(tmp_path, ENGINE, path)

    assert evidence.incumbent is not None
    assert gate.result is GateOutcome.PASS


class Program:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


class LargeArray:
    """An array that allocates what its argument says."""

    def __reduce__(self) -> Any:
        return np._core.multiarray._reconstruct, (np.ndarray, (10**9,), b"b")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "other",
    [
        Program(),
        LargeArray(),
        np.array([1, "x", None], dtype=object),
        np.random.default_rng(1),
        np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.array([1.0, 2.0], mask=[True, False]),
    ],
    ids=lambda other: type(other).__name__,
)
def test_nothing_else_of_numpy_is_accepted_and_nothing_is_executed(
    other: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ArtifactError, match="nothing in it was executed"):
        safe_load.loaded(Path("/m.pth"), saved({"accuracy": np.float64(0.5), "other": other}))
    assert capsys.readouterr().out == ""


def test_the_allow_list_of_the_process_is_as_before() -> None:
    before = set(torch.serialization.get_safe_globals())
    safe_load.loaded(Path("/m.pth"), saved(dict(EVALUATION)))
    assert set(torch.serialization.get_safe_globals()) == before
