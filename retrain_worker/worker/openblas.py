"""Selects the kernels of numpy's OpenBLAS for matrix products, before numpy is loaded.

torch's MKL uses AVX2 on CPUs of other makers than Intel even where they have AVX-512, which halves the rate. OpenBLAS
has compiled AVX-512 kernels, which, unlike oneDNN's generated ones, work under MemoryDenyWriteExecute=. They are
selected explicitly, so that the choice does not depend on the CPUs that its version knows. An existing
OPENBLAS_CORETYPE is kept, and then torch computes the products. On Intel's CPUs MKL uses AVX-512.
"""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
#: CPU features that these kernels need
NEEDED_FLAGS = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_KERNELS = ("OPENBLAS_CORETYPE", "SkylakeX")
#: one OpenBLAS thread: the fast path runs one thread per shard
_THREADS = ("OPENBLAS_NUM_THREADS", "1")


def choose(cpuinfo: Path = CPUINFO) -> None:
    """Set the environment variables that OpenBLAS reads when numpy is loaded; existing values are kept."""
    if _is_held_back_by_mkl(cpuinfo):
        for name, value in (_KERNELS, _THREADS):
            os.environ.setdefault(name, value)


def is_chosen() -> bool:
    """Whether OpenBLAS computes products of float32 matrices in this process."""
    return all(os.environ.get(name) == value for name, value in (_KERNELS, _THREADS))


def _is_held_back_by_mkl(cpuinfo: Path) -> bool:
    try:
        first, _, _ = cpuinfo.read_text().partition("\n\n")
    except OSError:
        return False
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    is_intel = facts.get("vendor_id") == "GenuineIntel"
    return not is_intel and NEEDED_FLAGS.issubset(facts.get("flags", "").split())
