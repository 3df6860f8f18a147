"""Whatever file is called a model, `inspect` says what it is, why it cannot be used, and executes nothing."""

from __future__ import annotations

import gzip
import os
import pickle
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from retrain_worker.domain import artifact
from retrain_worker.model.inspection import inspect
from tests.worker.test_bundle import NAMES, Bomb, engine_state, written


def test_our_files_of_both_presets_are_told_in_full(tmp_path: Path) -> None:
    for kind, preset in (("standardise", "paper"), ("engine", "engine")):
        report = inspect(written(tmp_path, kind))
        assert (report.kind, report.problem, report.canary_error) == ("model file, format patchtst/1.1", "", 0.0)
        assert report.manifest is not None
        assert (report.manifest.contract.preset, report.manifest.contract.feature_names) == (preset, NAMES)
        assert report.checksum == "agrees"
        assert report.parameters == sum(
            np.prod(shape, dtype=int)
            for name, shape in report.tensors.items()
            if not name.startswith(("input_",)) and "running_" not in name and "num_batches" not in name
        )


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda state: state, "bare state dict"),
        (lambda state: {"model_state_dict": state, "epoch": 20, "val_loss": 0.69}, "dict with model_state_dict"),
    ],
)
def test_older_scripts_files_can_be_used(tmp_path: Path, wrap: Callable[..., object], kind: str) -> None:
    path = tmp_path / "older.pth"
    torch.save(wrap(engine_state()), path)
    report = inspect(path)
    assert (report.kind, report.problem, report.parameters) == (kind, "", 612_481)
    assert (report.checksum, report.canary_error) == ("none", None)


def _torch_file(content: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda path: torch.save(content(path), path)


def _sqlite(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (a)")
    database.close()


def _script(path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),)), path)


def _truncated(path: Path) -> None:
    torch.save(engine_state(), path)
    path.write_bytes(path.read_bytes()[:5000])


def _other_width(features: int) -> Callable[[Path], object]:
    embedding = torch.zeros(128, 16 * features)
    return lambda _path: {"model_state_dict": engine_state() | {"patch_embedding.weight": embedding}}


def _compressed(path: Path) -> None:
    """2 MB that a loader inflates to 2 GB."""
    _torch_file(lambda _path: {"model_state_dict": engine_state()})(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(64 << 20))


def _bytearray(path: Path) -> None:
    """40 bytes that a loader turns into 40 GB."""
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")


def _repeated_canary(path: Path) -> object:
    found = torch.load(written(path.parent, "standardise"), weights_only=True)
    windows = found["canary"]["windows"]
    found["canary"]["windows"] = windows[:1].expand(20_000_000, *windows.shape[1:])
    found["canary"]["probabilities"] = found["canary"]["probabilities"][:1].expand(20_000_000)
    return found


def _long_canary(path: Path) -> object:
    found = torch.load(written(path.parent, "standardise"), weights_only=True)
    found["canary"] = {name: torch.cat([values] * 300) for name, values in found["canary"].items()}
    return found


#: how the file is made, its kind, and what the problem says
STRANGERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "23 features": (_torch_file(_other_width(23)), "dict with model_state_dict", "a network of 23 inputs a row"),
    "4 features": (_torch_file(_other_width(4)), "dict with model_state_dict", "a network of 4 inputs a row"),
    "numpy metadata": (
        _torch_file(lambda _path: {"model_state_dict": engine_state(), "generator": np.random.default_rng(1)}),
        "PyTorch file",
        "safe load refuses",
    ),
    "a bomb": (
        _torch_file(lambda path: {"model_state_dict": {}, "metadata": Bomb(path.with_name("executed"))}),
        "PyTorch file",
        "safe load refuses",
    ),
    "a bare pickle bomb": (
        lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("executed")))),
        "PyTorch file of before 1.6, or another pickle",
        "safe load refuses",
    ),
    "no weights": (_torch_file(lambda _path: {"epoch": 3}), "dict without weights", "no weights"),
    "a tensor": (_torch_file(lambda _path: torch.ones(3)), "PyTorch file", "holds a Tensor"),
    "truncated": (_truncated, "PyTorch file or archive, truncated", "truncated"),
    "empty": (Path.touch, "empty file", "empty file"),
    "text": (lambda path: path.write_text("not a model\n"), "text", "text"),
    "sqlite": (_sqlite, "SQLite database", "SQLite database"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "gzip file", "gzip"),
    "program": (_script, "torch.export program", "torch.export program"),
    "safetensors": (
        lambda path: safetensors.torch.save_file({"a": torch.ones(1)}, path),
        "safetensors file",
        "safetensors file",
    ),
    "noise": (lambda path: path.write_bytes(bytes(range(129, 256)) * 9), "unknown bytes", "unknown bytes"),
    "a pipe": (os.mkfifo, "not readable", "not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not readable", "not a regular file"),
    "compressed": (_compressed, "PyTorch file", "members are compressed"),
    "a number for its size": (_bytearray, "PyTorch file of before 1.6, or another pickle", "builtins.bytearray"),
    "a number for its size, in the content of an old file": (
        lambda path: torch.save({"a": bytearray(3)}, path, _use_new_zipfile_serialization=False),
        "PyTorch file of before 1.6, or another pickle",
        "bytearray, which no model file needs",
    ),
    "a repeated canary": (_torch_file(_repeated_canary), "PyTorch file", "larger than what is stored of it"),
    "a long canary": (_torch_file(_long_canary), "model file, format patchtst/1.1", "4,800 windows, more than 4,096"),
    "names with escapes": (
        _torch_file(lambda _path: {"model_state_dict": engine_state() | {"\x1b[2K\nverdict valid": torch.ones(1)}}),
        "dict with model_state_dict",
        r"\x1b[2K\nverdict valid",
    ),
    "missing": (lambda _path: None, "not readable", "No such file"),
    "a folder": (Path.mkdir, "not readable", "Is a directory"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_any_other_file_is_named_with_the_reason_it_cannot_be_used(tmp_path: Path, stranger: str) -> None:
    make, kind, reason = STRANGERS[stranger]
    path = tmp_path / "patchtst_old.pth"
    make(path)
    report = inspect(path)
    assert report.kind == kind
    assert reason in report.problem
    assert not (tmp_path / "executed").exists()


def test_objects_that_a_safe_load_refuses_are_named(tmp_path: Path) -> None:
    path = tmp_path / "older.pth"
    torch.save({"model_state_dict": engine_state(), "generator": np.random.default_rng(1)}, path)
    assert any(name.startswith("numpy.random") for name in inspect(path).refused_globals)


def test_a_file_that_is_not_what_its_checksum_says_is_told_and_not_trusted(tmp_path: Path) -> None:
    path = written(tmp_path)
    artifact.checksum_file(path).write_text("0" * 64 + f"  {path.name}\n")
    report = inspect(path)
    assert (report.kind, report.checksum) == ("model file, format patchtst/1.1", "differs")
    assert "sha256" in report.problem
