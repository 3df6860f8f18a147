"""Whose matrix products the training takes: told before numpy is loaded, by what the CPU is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retrain_worker.domain.recipe import Precision
from retrain_worker.worker import compute, openblas

FLAGS = "fpu avx2 " + " ".join(sorted(openblas.NEEDED_FLAGS))
CHOSEN = {"OPENBLAS_CORETYPE": "SkylakeX", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOSEN:
        monkeypatch.setenv(name, "")  # so that whatever a test sets is undone
        monkeypatch.delenv(name)


def told() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in CHOSEN}


def cpu(folder: Path, *, vendor: str = "AuthenticAMD", flags: str = FLAGS) -> Path:
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: some: CPU\nflags\t\t: {flags}\n"
    path = folder / "cpuinfo"
    path.write_text(f"{one}\n{one}\n")
    return path


def test_a_cpu_that_mkl_holds_back_takes_the_products_of_openblas(tmp_path: Path) -> None:
    openblas.choose(cpu(tmp_path))
    assert told() == CHOSEN
    assert compute.product_for(Precision.FP32) is compute._product_of_openblas
    assert compute.product_for(Precision.BF16) is torch.mm


@pytest.mark.parametrize(
    "facts",
    [{"vendor": "GenuineIntel"}, {"flags": "fpu avx2"}, {"flags": FLAGS.replace(" avx512vl", "")}, {"flags": ""}],
    ids=str,
)
def test_any_other_cpu_keeps_those_of_torch(tmp_path: Path, facts: dict[str, str]) -> None:
    openblas.choose(cpu(tmp_path, **facts))
    assert told() == {}
    assert compute.product_for(Precision.FP32) is torch.mm


def test_without_cpuinfo_nothing_is_chosen(tmp_path: Path) -> None:
    openblas.choose(tmp_path / "missing")
    assert told() == {}


@pytest.mark.parametrize(("name", "value"), [("OPENBLAS_CORETYPE", "Haswell"), ("OPENBLAS_NUM_THREADS", "4")])
def test_what_a_person_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    openblas.choose(cpu(tmp_path))
    assert told() == CHOSEN | {name: value}
    assert compute.product_for(Precision.FP32) is torch.mm


def test_the_child_can_still_choose_when_it_knows_its_task() -> None:
    """OpenBLAS reads its environment when numpy is loaded; the worker's own imports must not have done that."""
    code = "import sys, retrain_worker.worker.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("rows", "width"), [(7, 5), (128, 96)])
def test_products_are_those_of_torch_also_of_turned_matrices(rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(rows, width, generator=generator) for _ in range(2))
    for left, right in ((a, b.t()), (a.t(), b), (a.t().contiguous().t(), b.t())):
        out = torch.full((left.shape[0], right.shape[1]), torch.nan)
        assert compute._product_of_openblas(left, right, out=out) is out
        torch.testing.assert_close(out, left @ right, rtol=1e-5, atol=1e-5)
