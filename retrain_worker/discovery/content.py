"""Tells what a file is by its first bytes; its name is asked only where bytes cannot say it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

HEAD_BYTES = 4096
_LONG_HEAD_BYTES = 1 << 18
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PARQUET = b"PAR1"
#: protocol 2 to 5, then an opcode that an object can begin with (FRAME, or one of the collections, strings, classes)
_PICKLE = re.compile(rb"\x80(?:[\x04\x05]\x95|[\x02\x03][\]}(cX\x8a\x88\x89KMJGN)])", re.DOTALL)
#: ir_version, then producer_name, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_ONNX = re.compile(rb"\x08[\x01-\x20](?:\x12[\x01-\x40][\w.-]|\x3a|\x42)", re.DOTALL)
_APPEND_ONLY = re.compile(rb"\*\d+\r\n\$\d+\r\n")
_APPEND_ONLY_MANIFEST = re.compile(rb"file \S+ seq \d+ type [bhi]\b")
_DATABASE_SUFFIXES = {".db", ".sqlite", ".sqlite3", ".db3"}
_SCRIPT_SUFFIXES = {".py", ".sh"}
_UNIT = re.compile(r"(?:\s*[#;][^\n]*\n|\s*\n)*\s*\[(?:Unit|Service)\]\s*\n")
_ENV_LINE = re.compile(r"(?:export\s+)?[A-Za-z_]\w*=")
#: names under which the stack's programs look for data, models, or Redis
DATA_NAME = re.compile(r"(?i)(?:^|_)(?:DB|DATABASE|DATASET|DATA|MODELS?|CHECKPOINTS?|REDIS|PATCHTST|STORAGE)(?:_|$)")
#: `db_path = "/home/qt/quantum.db"`: a path of a database, written into a program
DATABASE_IN_SCRIPT = re.compile(
    r"""(?i)\b(?P<name>\w*(?:db|database)\w*)\s*[=:]\s*(?:\w+\()?["']?(?:sqlite:///)?(?P<path>/[^\s"'$]+\.(?:db|sqlite3?))\b"""
)
_CANDLE_COLUMNS = {"open", "high", "low", "close"}
_MIN_KLINE_COLUMNS = 6


class Kind(StrEnum):
    """What a file is."""

    SQLITE = "SQLite database"
    #: 0 bytes, or something else, under the name of a database
    NO_DATABASE = "no database"
    CSV = "CSV file"
    MODEL = "model or binary data file"
    JSON_LINES = "JSON lines"
    REDIS = "Redis file"
    ENV = "env file"
    UNIT = "systemd unit"
    SCRIPT = "script with a database path"


def kind_of(path: Path, head: bytes, *, more: Callable[[int], bytes]) -> Kind | None:
    """What the file at `path` is whose first HEAD_BYTES are `head`; None for everything else.

    `more` gives up to so many bytes from the start, and is called rarely.
    """
    binary = _binary_kind(path, head)
    if binary is not None:
        return binary
    text = _as_text(head)
    found = _text_kind(path, text, len(head), more) if text is not None and head else None
    if found is None and path.suffix.lower() in _DATABASE_SUFFIXES:
        return Kind.NO_DATABASE
    return found


def is_candle_header(columns: list[str]) -> bool:
    """Whether these are the columns of open, high, low and close."""
    words = {re.split(r"[\s_.(]", name.strip().lower().removesuffix("_price"))[0] for name in columns}
    return words >= _CANDLE_COLUMNS


def is_kline(cells: list[str]) -> bool:
    """Whether this is a row without header as exchanges export them: open time, open, high, low, close, volume."""
    if len(cells) < _MIN_KLINE_COLUMNS:
        return False
    try:
        instant, first, high, low, close = (float(cell) for cell in cells[:5])
    except ValueError:
        return False
    return instant > 1e9 and low <= min(first, close) <= max(first, close) <= high


def delimiter_of(line: str) -> str:
    """The character that separates the cells."""
    return max(",;\t", key=line.count)


def _binary_kind(path: Path, head: bytes) -> Kind | None:
    if head.startswith(b"SQLite format 3\x00"):
        return Kind.SQLITE
    if re.match(rb"REDIS\d{4}", head) or _APPEND_ONLY.match(head) or _APPEND_ONLY_MANIFEST.match(head):
        return Kind.REDIS
    if head.startswith((_HDF5, _PARQUET)) or _PICKLE.match(head) or _is_safetensors(head):
        return Kind.MODEL
    if head.startswith(_ZIP) and (_holds_arrays(head) or path.suffix.lower() in {".pt", ".pth", ".npz"}):
        return Kind.MODEL
    if _ONNX.match(head) and (path.suffix.lower() == ".onnx" or b"pytorch" in head[:64] or b"onnx" in head[:64]):
        return Kind.MODEL
    return None


def _holds_arrays(head: bytes) -> bool:
    """Whether the first member of a zip file is what torch.save or numpy.savez writes first."""
    length = int.from_bytes(head[26:28], "little")
    name = head[30 : 30 + length]
    return name.endswith((b"/data.pkl", b".npy")) or name == b"data.pkl"


def _is_safetensors(head: bytes) -> bool:
    # https://github.com/huggingface/safetensors#format: length of the header, then its JSON
    return len(head) > 10 and head[8:10] in (b'{"', b"{}") and int.from_bytes(head[:8], "little") < 100 << 20


def _as_text(head: bytes) -> str | None:
    if b"\0" in head:
        return None
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return head[: error.start].decode("utf-8-sig") if error.start > len(head) - 4 > 0 else None


def _text_kind(path: Path, text: str, size: int, more: Callable[[int], bytes]) -> Kind | None:
    suffix = path.suffix.lower()
    if text.startswith("{"):
        if "\n" not in text and size == HEAD_BYTES:
            text = more(_LONG_HEAD_BYTES).decode("utf-8-sig", "replace")
        return Kind.JSON_LINES if _is_json_lines(text, suffix) else None
    if _UNIT.match(text):
        return Kind.UNIT
    if suffix in _SCRIPT_SUFFIXES:
        whole = text if size < HEAD_BYTES else more(_LONG_HEAD_BYTES).decode("utf-8-sig", "replace")
        return Kind.SCRIPT if DATABASE_IN_SCRIPT.search(whole) else None
    if _is_env(text):
        return Kind.ENV
    return Kind.CSV if _is_csv(text, suffix) else None


def _is_json_lines(text: str, suffix: str) -> bool:
    first, *others = [line for line in text.split("\n", 2) if line.strip()][:2]
    if not others and suffix not in {".jsonl", ".ndjson"}:
        return False
    try:
        return isinstance(json.loads(first), dict) and all(other.startswith("{") for other in others)
    except (ValueError, RecursionError):
        return False


def _is_env(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines()]
    assignments = [line for line in lines if line and not line.startswith(("#", ";"))]
    if not assignments or not all(_ENV_LINE.match(line) for line in assignments[:50]):
        return False
    return any(DATA_NAME.search(line.removeprefix("export ").split("=")[0]) for line in assignments)


def _is_csv(text: str, suffix: str) -> bool:
    lines = text.splitlines()[:20]
    if text and text[-1] != "\n" and len(lines) > 1 and len(text) >= HEAD_BYTES // 2:
        lines.pop()  # cut off by the end of the head
    is_called_csv = suffix in {".csv", ".tsv"}
    if len(lines) < (1 if is_called_csv else 3) or not lines[0].strip():
        return False
    delimiter = delimiter_of(lines[0])
    if lines[0].count(delimiter) < (1 if is_called_csv else 2):
        return False
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return False
    if len({len(row) for row in rows}) != 1 or not all(cell.strip() for cell in rows[0][1:]):
        return False
    return is_called_csv or is_candle_header(rows[0]) or all(_numbers(row) >= 2 for row in rows[1:])


def _numbers(row: list[str]) -> int:
    return sum(re.fullmatch(r"\s*[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?\s*", cell) is not None for cell in row)
