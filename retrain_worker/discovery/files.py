"""Says what a CSV file, a JSON lines file, a model or a Redis file is, without loading any of them."""

from __future__ import annotations

import csv
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from retrain_worker.discovery.content import delimiter_of, is_candle_header, is_kline
from retrain_worker.discovery.pack import BinaryFile, FileFacts, Observations, TextTable, shown
from retrain_worker.discovery.text_ends import TIME_NAMES, ends_of, instant_of

_MAX_SHOWN_NAMES = 40
_MAX_PICKLE_BYTES = 4 << 20
_MAX_HEADER_BYTES = 1 << 20
_KLINE_COLUMNS = ("open_time", "open", "high", "low", "close", "volume")
_PARAMETER = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
#: written by torch.save before torch 1.6
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def csv_file(path: Path, facts: FileFacts) -> TextTable:
    """Columns, rows, and the times of the first and the last row. Raises OSError."""
    ends = ends_of(path)
    delimiter = delimiter_of(ends.first)
    header, second, last = (_cells(line, delimiter) for line in (ends.first, ends.second, ends.last))
    has_header = not is_kline(header)
    columns = header if has_header else [*_KLINE_COLUMNS, *(f"column_{i}" for i in range(7, len(header) + 1))]
    at = _time_column(columns, second if has_header else header)
    rows = None if ends.lines is None else max(ends.lines - has_header, 0)
    return TextTable(
        file=facts,
        columns=tuple(shown(name) for name in columns[:_MAX_SHOWN_NAMES]),
        rows=rows,
        is_candles=is_candle_header(columns),
        first_at=_instant_at(second if has_header else header, at),
        last_at=_instant_at(last, at),
    )


def observations(path: Path, facts: FileFacts) -> Observations:
    """Lines, the keys of the first, and the times of the first and the last. Raises OSError."""
    ends = ends_of(path)
    first, last = _object(ends.first), _object(ends.last)
    key = next((name for name in first if name.lower() in TIME_NAMES), "")
    keys = tuple(shown(name) for name in list(first)[:_MAX_SHOWN_NAMES])
    return Observations(
        file=facts, lines=ends.lines, keys=keys, first_at=instant_of(first.get(key)), last_at=instant_of(last.get(key))
    )


def model_file(path: Path, facts: FileFacts) -> BinaryFile:
    """What its magic, its listing and the names in it say; nothing of it is executed. Raises OSError."""
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


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _time_column(columns: list[str], cells: list[str]) -> int | None:
    lower = [name.strip().lower() for name in columns]
    named = [lower.index(name) for name in TIME_NAMES if name in lower]
    return next((i for i in (*named, 0) if _instant_at(cells, i)), None)


def _instant_at(cells: list[str], position: int | None) -> datetime | None:
    return instant_of(cells[position]) if position is not None and position < len(cells) else None


def _object(line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
        return f"damaged zip file ({shown(str(error))[:80]})"
    tensors = sum("/data/" in f"/{name}" for name in names)
    script = ", TorchScript" if any("/code/" in f"/{name}" for name in names) else ""
    return f"PyTorch file{script}, {tensors} tensors{_named(pickle)}"


def _named(pickle: bytes) -> str:
    parameters = [name for name in _strings(pickle) if _PARAMETER.fullmatch(name) and not name.startswith("torch.")]
    classes = [name for name in _classes(pickle) if not name.startswith(("torch", "collections", "builtins"))]
    said = f": {_listed(parameters)}" if parameters else ""
    return f"{said}; classes {_listed(classes)}" if classes else said


def _in_pickle(path: Path) -> str:
    with path.open("rb") as file:
        pickle = file.read(_MAX_PICKLE_BYTES)
    if _OLD_TORCH in pickle[:64]:
        return "PyTorch file (before 1.6)"
    classes = _classes(pickle)
    return f"pickle of {_listed(classes)}" if classes else "pickle of plain values"


def _in_safetensors(path: Path) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = _object(file.read(min(length, _MAX_HEADER_BYTES)).decode("utf-8", "replace"))
    names = [name for name in header if name != "__metadata__"]
    return f"safetensors, {len(names)} tensors: {_listed(names)}" if names else "safetensors"


def _operations(pickle: bytes) -> Iterator[tuple[str, object]]:
    """Name and argument of each opcode, as far as it can be read; pickletools reads, it does not execute."""
    try:
        for operation, argument, _ in pickletools.genops(pickle):
            yield operation.name, argument
    except Exception:  # damaged bytes raise whatever the opcode's reader meets
        return


def _strings(pickle: bytes) -> list[str]:
    return list(dict.fromkeys(str(value) for name, value in _operations(pickle) if "UNICODE" in name))


def _classes(pickle: bytes) -> list[str]:
    found, recent = [], ["", ""]
    for name, value in _operations(pickle):
        if name == "GLOBAL":
            found.append(str(value).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            found.append(".".join(recent))
        elif "UNICODE" in name:
            recent = [recent[1], str(value)]
    return list(dict.fromkeys(found))


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name)[:60] for name in names[:most]) + more
