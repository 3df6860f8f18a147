"""Loads a PyTorch file of any origin: nothing is executed, and what it takes is bounded by the size of the file.

torch.load(weights_only=True) executes nothing, but allocates what the file names: compressed members, `bytearray(n)`,
copies of tensors that repeat their storage. Such files are refused; torch.save writes none of them.

The stack's scripts write evaluation results beside the weights: numpy arrays and scalars of numbers and texts. A file
that needs them is loaded a second time with exactly these on the allow-list of torch.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrain_worker import durable_file
from retrain_worker.errors import ArtifactError

#: far more than any model needs; a larger file is not read into memory
MAX_BYTES = 512 * 2**20
#: globals that allocate as much as their argument is, under the module's names in Python 3 and 2
_ALLOCATING = frozenset({"builtins bytearray", "__builtin__ bytearray"})
#: one after the other in a file of before 1.6: magic number, version, system, content, names of the storages
_NUM_OLD_PICKLES = 5


def _array(kind: type, shape: tuple[int, ...], typecode: bytes) -> NDArray[Any]:
    """What a pickled array begins as. Raises UnpicklingError for what numpy itself never writes."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"a {kind} of shape {shape}")
    return np.ndarray(shape, typecode.decode())


#: what numpy pickles, under the names of numpy 1 and 2. Objects have another dtype
_NUMPY: tuple[tuple[Any, str], ...] = (
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    *((type(np.dtype(code)), f"numpy.dtypes.{type(np.dtype(code)).__name__}") for code in "?bBhHiIlLqQefdUS"),
)
#: names that `loaded` accepts beside those of torch
NUMPY_NAMES = frozenset(name for _, name in _NUMPY)
#: the allow-list is one of the process
_allow_list = threading.Lock()


def bytes_of(path: Path, *, follow_links: bool = True) -> bytes:
    """The whole file. Raises ArtifactError when it cannot be read or is larger than any model."""
    try:
        return durable_file.read_regular(path, MAX_BYTES, follow_links=follow_links)
    except OSError as error:
        raise ArtifactError(f"it cannot be read: {error.strerror or error}", where=str(path)) from error


def loaded(path: Path, data: bytes) -> Mapping[str, Any]:
    """The dict in `data`; no tensor is larger than what is stored of it. Raises ArtifactError."""
    try:
        _check_size(data)
        found = _load(data)
        _check_tensors(found)
    except ArtifactError as error:
        raise ArtifactError(error.what, where=str(path)) from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it holds {named[1]}, which" if named else "it is damaged, or holds objects that"
        raise ArtifactError(f"{what} a safe load refuses; nothing in it was executed", where=str(path)) from error
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ArtifactError(
            f"it is damaged or not a PyTorch file ({type(error).__name__}: {reason})", where=str(path)
        ) from error
    if not isinstance(found, Mapping):
        raise ArtifactError(f"it holds a {type(found).__name__}, not a dict", where=str(path))
    return found


def _load(data: bytes) -> Any:
    with warnings.catch_warnings():  # torch warns about other pickles; the error states what is wrong with them
        warnings.simplefilter("ignore")
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "numpy" not in str(error):
                raise
        with _allow_list, torch.serialization.safe_globals(list(_NUMPY)):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _check_size(data: bytes) -> None:
    """Refuse what would take more memory than the file has bytes."""
    pickled = [data]
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ArtifactError("its members are compressed, which torch.save never does")
            if sum(member.file_size for member in archive.infolist()) > len(data):
                raise ArtifactError("its members overlap, or are larger than the file")
            pickled = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    for content in pickled:
        stream = io.BytesIO(content)
        for _ in range(_NUM_OLD_PICKLES):
            if stream.tell() == len(content):
                break
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name == "GLOBAL" and argument in _ALLOCATING:
                    raise ArtifactError(f"it holds {argument.replace(' ', '.')}, which no model file needs")


def _check_tensors(found: object) -> None:
    """Refuse tensors that repeat their storage: a copy of one takes any amount of memory."""
    if isinstance(found, torch.Tensor):
        if found.numel() * found.element_size() > found.untyped_storage().nbytes():
            raise ArtifactError(f"it holds a tensor of shape {tuple(found.shape)}, larger than what is stored of it")
    elif isinstance(found, Mapping):
        for value in found.values():
            _check_tensors(value)
    elif isinstance(found, list | tuple | set):
        for value in found:
            _check_tensors(value)
