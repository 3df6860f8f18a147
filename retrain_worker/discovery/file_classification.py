"""Classifies a file by its first bytes; its name decides only where bytes cannot."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from enum import StrEnum

HEAD_BYTES = 4096
_LONG_HEAD_BYTES = 1 << 18
_MAGIC = re.compile(
    rb"(?P<SQLITE>SQLite format 3\x00)"
    rb"|(?P<REDIS>REDIS\d{4}|\*\d+\r\n\$\d+\r\n|file \S+ seq \d+ type [bhi]\b)"
    rb"|(?P<ZIP>PK\x03\x04)"
    # ir_version, then producer_name, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
    rb"|(?P<ONNX>\x08[\x01-\x20](?:\x12[\x01-\x40][\w.-]|\x3a|\x42))"
    rb"|(?P<MODEL>\x89HDF\r\n\x1a\n|PAR1"
    # pickle: protocol 2 to 5, then an opcode that an object can begin with (FRAME, a collection, a string, a class)
    rb"|\x80(?:[\x04\x05]\x95|[\x02\x03][\]}(cX\x8a\x88\x89KMJGN)])"
    # safetensors: length of the header, then its JSON, https://github.com/huggingface/safetensors#format
    rb'|.{3}[\x00-\x05]\x00{4}\{["}].)',
    re.DOTALL,
)
DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3", ".db3")
_SCRIPT_SUFFIXES = (".py", ".sh")
_ZIPPED_MODEL_SUFFIXES = (".pt", ".pth", ".npz")
#: the first line that is neither blank nor a comment
_FIRST_SETTING = re.compile(rb"(?:\xef\xbb\xbf)?(?:[ \t\r]*(?:[#;][^\n]*)?\n)*[ \t]*([^\n]*)")
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Za-z_]\w*=")
#: names of settings of the stack's programs for data, models, or Redis
DATA_NAME = re.compile(r"(?i)(?:^|_)(?:DB|DATABASE|DATASET|DATA|MODELS?|CHECKPOINTS?|REDIS|PATCHTST|STORAGE)(?:_|$)")
#: absolute, and not the rest of a longer path or URL
_DATABASE_PATH = re.compile(
    r"(?:(?<=sqlite:///)|(?<![\w:/.~}%-]))/[^\s\"'`$,;()<>{}*/][^\s\"'`$,;()<>{}*]*\.(?:db3?|sqlite3?)(?![\w.])"
)
_DATABASE_WORD = re.compile(r"(?i)(?<![\w./])\w*(?:db|database|sqlite|connect)\w*")
_MAX_SCRIPT_LINE = 1000
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


def kind_of(name: str, head: bytes, *, read: Callable[[int], bytes]) -> Kind | None:
    """The kind of the file `name` whose first HEAD_BYTES are `head`; None for every other file.

    `read` gives up to so many bytes from the start; it is called for a few kinds of text only.
    """
    suffix = name[name.rfind(".") :].lower()
    if magic := _MAGIC.match(head):
        kind = _binary_kind(str(magic.lastgroup), head, suffix)
    elif b"\0" in head:
        kind = None
    else:
        kind = _text_kind(suffix, head, read)
    return Kind.NO_DATABASE if kind is None and suffix in DATABASE_SUFFIXES else kind


def database_paths(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, name, path) of each database path in a program: `db_path = "/home/qt/quantum.db"`, `connect("/x.db")`."""
    for number, line in enumerate(text.splitlines(), start=1):
        if (".db" in line or ".sqlite" in line) and len(line) < _MAX_SCRIPT_LINE and not line.lstrip().startswith("#"):
            for found in _DATABASE_PATH.finditer(line):
                if names := _DATABASE_WORD.findall(line[: found.start()]):
                    yield number, names[-1], found[0]


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


def _binary_kind(magic: str, head: bytes, suffix: str) -> Kind | None:
    if magic == "ZIP":
        return Kind.MODEL if suffix in _ZIPPED_MODEL_SUFFIXES or _holds_arrays(head) else None
    if magic == "ONNX":
        return Kind.MODEL if suffix == ".onnx" or b"pytorch" in head[:64] or b"onnx" in head[:64] else None
    return Kind[magic]


def _holds_arrays(head: bytes) -> bool:
    """Whether the first member of a zip file is what torch.save or numpy.savez writes first."""
    length = int.from_bytes(head[26:28], "little")
    name = head[30 : 30 + length]
    return name.endswith((b"/data.pkl", b".npy")) or name == b"data.pkl"


def _text_kind(suffix: str, head: bytes, read: Callable[[int], bytes]) -> Kind | None:
    is_whole = len(head) < HEAD_BYTES
    if head.startswith((b"{", b"\xef\xbb\xbf{")):
        lines = head if is_whole or b"\n" in head else read(_LONG_HEAD_BYTES)
        return Kind.JSON_LINES if _is_json_lines(lines, suffix) else None
    if suffix in _SCRIPT_SUFFIXES or head.startswith(b"#!"):
        script = head if is_whole else read(_LONG_HEAD_BYTES)
        is_candidate = b".db" in script or b".sqlite" in script
        return Kind.SCRIPT if is_candidate and any(database_paths(script.decode("utf-8", "replace"))) else None
    first = _FIRST_SETTING.match(head)
    setting = first[1].decode("utf-8", "replace") if first else ""
    if setting.rstrip() in ("[Unit]", "[Service]"):
        return Kind.UNIT
    is_called_csv = suffix in (".csv", ".tsv")
    if _ASSIGNMENT.match(setting) and _is_env(_lines(head, is_whole=is_whole)):
        return Kind.ENV
    if _num_delimiters(head) >= (1 if is_called_csv else 2):
        lines_of_table = _lines(head, is_whole=is_whole)[:20]
        return Kind.CSV if lines_of_table and _is_csv(lines_of_table, is_called_csv=is_called_csv) else None
    return None


def _lines(head: bytes, *, is_whole: bool) -> list[str]:
    """The lines of a text without the one that the end of the head has cut; none of what is not UTF-8."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if is_whole or error.start < HEAD_BYTES - 4:  # else a character that the end of the head has cut
            return []
        text = head[: error.start].decode("utf-8-sig")
    lines = text.splitlines()
    return lines if is_whole or len(lines) < 2 else lines[:-1]


def _num_delimiters(head: bytes) -> int:
    line = head[: head.find(b"\n")] if b"\n" in head else head
    return max(map(line.count, (b",", b";", b"\t")))


def _is_json_lines(head: bytes, suffix: str) -> bool:
    if b"\n{" not in head and suffix not in (".jsonl", ".ndjson"):
        return False
    first, *others = [line for line in head.decode("utf-8-sig", "replace").split("\n", 2) if line.strip()][:2]
    try:
        return isinstance(json.loads(first), dict) and all(other.startswith("{") for other in others)
    except (ValueError, RecursionError):
        return False


def _is_env(lines: list[str]) -> bool:
    assigned = [line for line in map(str.strip, lines) if line and line[0] not in "#;"]
    if not all(map(_ASSIGNMENT.match, assigned[:50])):
        return False
    return any(DATA_NAME.search(line.removeprefix("export ").split("=")[0]) for line in assigned)


def _is_csv(lines: list[str], *, is_called_csv: bool) -> bool:
    if len(lines) < (1 if is_called_csv else 3):
        return False
    try:
        rows = list(csv.reader(lines, delimiter=delimiter_of(lines[0])))
    except csv.Error:
        return False
    if len({len(row) for row in rows}) != 1 or not all(cell.strip() for cell in rows[0][1:]):
        return False
    return is_called_csv or is_candle_header(rows[0]) or all(_numbers(row) >= 2 for row in rows[1:])


def _numbers(row: list[str]) -> int:
    return sum(re.fullmatch(r"\s*[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?\s*", cell) is not None for cell in row)
