"""Device, threads and precision of this process."""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from retrain_worker.domain.recipe import Precision
from retrain_worker.errors import SettingsError
from retrain_worker.model.patchtst import PatchTSTConfig

#: D and M (tokens of a batch) from which bf16 gains on units for it: rounding the factors costs as much as it saves
#: in narrower products (docs/benchmarks.md)
BF16_WIDTH = 128
BF16_TOKENS = 512


_log = logging.getLogger(__name__)


def prepare(*, device: str, threads: int) -> torch.device:
    """Set torch up for training or scoring; the device that `device` (cpu | cuda | auto) means here.

    `threads` 0 leaves their number to torch. Raises SettingsError when cuda is requested and not available.
    """
    has_cuda = torch.cuda.is_available()
    if device not in ("cpu", "cuda", "auto") or (device == "cuda" and not has_cuda):
        raise SettingsError((f'DEVICE: "{device}" is not available on this host',), remedy="set DEVICE to auto or cpu")
    if threads > 0:
        torch.set_num_threads(threads)
    # denormal weights make every product slow
    torch.set_flush_denormal(True)
    if not _may_write_and_execute():
        # under MemoryDenyWriteExecute= oneDNN cannot generate code: gelu fails with "could not create a primitive"
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    if device == "cpu" or not has_cuda:
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda")


def precision_for(requested: Precision, config: PatchTSTConfig, *, batch_size: int, device: torch.device) -> Precision:
    """fp32 or bf16: a function of machine and network, not of a measurement, so that runs are reproducible.

    On a GPU, bf16 only where it is requested: what it gains there was not measured.
    """
    if device.type == "cuda" and requested is Precision.BF16 and torch.cuda.is_bf16_supported():
        return Precision.BF16
    if requested is Precision.FP32 or device.type != "cpu":
        return Precision.FP32
    if not (torch.backends.mkldnn.enabled and _has_bf16_units()):
        if requested is Precision.BF16:
            _log.warning("PRECISION=bf16 needs a CPU with AMX and executable memory: training in fp32")
        return Precision.FP32
    num_tokens = batch_size * config.num_series * config.num_patches
    is_faster = config.d_model >= BF16_WIDTH and num_tokens >= BF16_TOKENS
    return Precision.BF16 if requested is Precision.BF16 or is_faster else Precision.FP32


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Whether matrix products of float32 tensors round their factors to bf16; sums are float32 in both cases."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16" if precision is Precision.BF16 else "ieee"
    on_gpu = precision is Precision.BF16 and torch.cuda.is_available()
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16) if on_gpu else nullcontext():
            yield
    finally:
        settings.fp32_precision = before


def _has_bf16_units() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _may_write_and_execute() -> bool:
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True
