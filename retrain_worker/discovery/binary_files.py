"""Describes model files and Redis files by their first bytes and listings; none is loaded."""

from __future__ import annotations

import pickletools
import re
import zipfile
from itertools import islice
from pathlib import Path

from retrain_worker.discovery.proof_pack import BinaryFile, FileFacts
from retrain_worker.discovery.text_files import json_object
from retrain_worker.domain.printable import printable

_MAX_PICKLE_BYTES = 1 << 20
_MAX_OPERATIONS = 5_000
_MAX_HEADER_BYTES = 1 << 20
_PARAMETER = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
#: written by torch.save before torch 1.6
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def model_file(path: Path, facts: FileFacts) -> BinaryFile:
    """The format and the names in a file; nothing in it is executed. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK"):
        what = _in_zip(path)
    elif head.startswith(b"\x80"):
        what = _in_pickle(path)
    elif head[8:9] == b"{":
        what = _in_safetensors(path)
    else:
        magics = {b"\x89HDF": "HDF5 file (Keras weights or a table)", b"PAR1": "Parquet table", b"\x08": "ONNX model"}
        what = next((text for magic, text in magics.items() if head.startswith(magic)), "binary file")
    return BinaryFile(file=facts, what=what)


def redis_file(path: Path, facts: FileFacts) -> BinaryFile:
    """A dump, an append-only file, or the list of the parts of one. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"REDIS"):
        return BinaryFile(file=facts, what=f"Redis dump, RDB version {int(head[5:9])}")
    return BinaryFile(file=facts, what=f"Redis append-only {'file' if head.startswith(b'*') else 'manifest'}")


def _in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((name for name in names if name == "data.pkl" or name.endswith("/data.pkl")), None)
            if pickled is None:
                arrays = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
                return f"NumPy archive: {_listed(arrays)}" if arrays else f"zip file of {len(names)} members"
            with archive.open(pickled) as member:
                pickle = member.read(_MAX_PICKLE_BYTES)
    except Exception as error:  # damaged bytes raise whatever the member's decompressor meets
        return f"damaged zip file ({printable(str(error))[:80]})"
    tensors = sum("/data/" in f"/{name}" for name in names)
    script = ", TorchScript" if any("/code/" in f"/{name}" for name in names) else ""
    return f"PyTorch file{script}, {tensors} tensors{_named(pickle)}"


def _named(pickle: bytes) -> str:
    strings, classes = _names_in(pickle)
    parameters = [name for name in strings if _PARAMETER.fullmatch(name) and not name.startswith("torch.")]
    classes = [name for name in classes if not name.startswith(("torch", "collections", "builtins"))]
    named = f": {_listed(parameters)}" if parameters else ""
    return f"{named}; classes {_listed(classes)}" if classes else named


def _in_pickle(path: Path) -> str:
    with path.open("rb") as file:
        pickle = file.read(_MAX_PICKLE_BYTES)
    if _OLD_TORCH in pickle[:64]:
        return "PyTorch file (before 1.6)"
    _strings, classes = _names_in(pickle)
    return f"pickle of {_listed(classes)}" if classes else "pickle of plain values"


def _in_safetensors(path: Path) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json_object(file.read(min(length, _MAX_HEADER_BYTES)).decode("utf-8", "replace"))
    names = [name for name in header if name != "__metadata__"]
    return f"safetensors, {len(names)} tensors: {_listed(names)}" if names else "safetensors"


def _names_in(pickle: bytes) -> tuple[list[str], list[str]]:
    """The strings and the classes in a pickle, as far as it can be read; pickletools reads, it does not execute."""
    strings: list[str] = []
    classes: list[str] = []
    try:
        for operation, argument, _ in islice(pickletools.genops(pickle), _MAX_OPERATIONS):
            if operation.name == "GLOBAL":
                classes.append(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                classes.append(".".join(strings[-2:]))
            elif "UNICODE" in operation.name:
                strings.append(str(argument))
    except Exception:  # noqa: S110 - damaged bytes raise whatever the opcode's reader meets
        pass
    return list(dict.fromkeys(strings)), list(dict.fromkeys(classes))


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name)[:60] for name in names[:most]) + more
