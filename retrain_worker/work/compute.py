"""How this process computes: device, threads, and the two switches of the CPU that matter here."""

from __future__ import annotations

import mmap
import os

import torch

from retrain_worker.errors import SettingsError


def prepare(*, device: str, threads: int) -> torch.device:
    """Set torch up for training or scoring; the device that `device` (cpu | cuda | auto) means here.

    `threads` 0 leaves their number to torch. Raises SettingsError when cuda is asked for and is not there.
    """
    has_cuda = torch.cuda.is_available()
    if device not in ("cpu", "cuda", "auto") or (device == "cuda" and not has_cuda):
        raise SettingsError((f"DEVICE={device} is not available here",), remedy="set DEVICE to auto or cpu")
    if threads > 0:
        torch.set_num_threads(threads)
    # weights that decay through the denormal range make every product slow
    torch.set_flush_denormal(True)
    if not _may_write_and_execute():
        # under MemoryDenyWriteExecute= oneDNN cannot generate code: gelu fails with "could not create a primitive"
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    if device == "cpu" or not has_cuda:
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda")


def _may_write_and_execute() -> bool:
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True
