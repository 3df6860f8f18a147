"""Which kernels numpy's OpenBLAS takes for matrix products, decided before numpy is loaded.

torch's MKL takes AVX2 on a CPU that is not Intel's even where it has AVX-512: half of what the CPU can do. OpenBLAS has
kernels for AVX-512, compiled and not generated as oneDNN's are, so that they also work under MemoryDenyWriteExecute=.
They are named here, so that they do not hang on what its version knows of a CPU. Where OPENBLAS_CORETYPE names
others already, they stay, and torch keeps the products. On Intel's CPUs MKL takes AVX-512 by itself.
"""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
#: what these kernels are compiled for
NEEDED_FLAGS = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_KERNELS = ("OPENBLAS_CORETYPE", "SkylakeX")
#: the threads are ours, each with a shard of the batch
_THREADS = ("OPENBLAS_NUM_THREADS", "1")


def choose(cpuinfo: Path = CPUINFO) -> None:
    """Tell OpenBLAS, through the environment, which it reads when numpy is loaded; what is set already stays."""
    if _is_held_back_by_mkl(cpuinfo):
        for name, value in (_KERNELS, _THREADS):
            os.environ.setdefault(name, value)


def is_chosen() -> bool:
    """Whether products of float32 matrices are OpenBLAS's to compute in this process."""
    return all(os.environ.get(name) == value for name, value in (_KERNELS, _THREADS))


def _is_held_back_by_mkl(cpuinfo: Path) -> bool:
    try:
        first, _, _ = cpuinfo.read_text().partition("\n\n")
    except OSError:
        return False
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    is_intel = facts.get("vendor_id") == "GenuineIntel"
    return not is_intel and NEEDED_FLAGS.issubset(facts.get("flags", "").split())
