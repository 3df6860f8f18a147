r"""One key of a systemd EnvironmentFile: read as systemd reads it, changed with every other byte kept.

The grammar of systemd.exec(5), EnvironmentFile=, as systemd implements it; tests compare it with systemd's own parser.
Notable rules: `\r` ends a line as `\n` does; quotes count only before the first unquoted character of a value; an
unterminated quote extends to the end of the file; a NUL byte, or invalid UTF-8 in an assignment, makes systemd reject
the whole file; a comment that ends in a backslash continues on the next line up to systemd 253, but not from 254 on. A
file is used only where both grammars agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from retrain_worker.errors import SlotError

MAX_BYTES = 1 << 20
#: a value in which no quoting rule applies
PLAIN_VALUE = re.compile(r"[A-Za-z0-9._/+-]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Unicode noncharacters, which systemd rejects as UTF-8
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef" + "".join(chr((plane << 16) + 0xFFFE) + chr((plane << 16) + 0xFFFF) for plane in range(17)) + "]"
)

_BLANKS = re.compile(rb"[ \t\r\n]*+")
#: up to 253, a backslash in a comment escapes the next character, including the end of the line
_COMMENT_253 = re.compile(rb"[#;](?:[^\\\r\n]|\\(?s:.)|\\\Z)*+")
_COMMENT_254 = re.compile(rb"[#;][^\r\n]*+")
_KEY = re.compile(rb"[^ \t\r\n#;][^=\r\n]*+")
_QUOTED = re.compile(rb"""[ \t]*+(?:'(?P<single>[^']*+)(?:'|\Z)|"(?P<double>(?:[^"\\]|\\(?s:.)|\\\Z)*+)(?:"|\Z))""")
_UNQUOTED = re.compile(rb"[ \t]*+(?P<text>(?:[ \t]*+(?:[^\\ \t\r\n]|\\(?s:.)|\\\Z))*+)[ \t]*+")
_ESCAPED = re.compile(rb"\\(.?)", re.DOTALL)
_LINE_END = re.compile(rb"\r\n|\r|\n|\Z")


@dataclass(frozen=True, kw_only=True)
class _Assignment:
    """Position of `key=value`: the start of its line, the bytes of its value, and the end of its line."""

    key: bytes
    value: bytes
    start: int
    value_start: int
    value_end: int
    end: int


def parse(content: bytes, *, comments_continue: bool = False) -> dict[str, str]:
    """The variables that systemd reads from the file. Raises SlotError where systemd rejects the file.

    `comments_continue`: read as systemd up to 253 does.
    """
    if len(content) > MAX_BYTES:
        raise SlotError(f"the file has {len(content):,} bytes, more than {MAX_BYTES:,}")
    if b"\0" in content:
        raise SlotError("systemd rejects the file: it contains a NUL byte", remedy="remove the byte")
    found = {
        _text(each.key, content, each): _text(each.value, content, each)
        for each in _assignments(content, comments_continue=comments_continue)
    }
    return {key: value for key, value in found.items() if _NAME.fullmatch(key)}


def value_of(content: bytes, key: str) -> str | None:
    """The value of `key`, or None. Raises SlotError where systemd rejects the file or its versions disagree."""
    now, before = parse(content), parse(content, comments_continue=True)
    if now.get(key) != before.get(key):
        raise SlotError(
            f"the value of {key} depends on the version of systemd, because a comment ends in a backslash",
            remedy="remove the backslash at the end of the comment",
        )
    return now.get(key)


def replaced(content: bytes, key: str, value: str) -> bytes:
    """`content` with `key` set to `value` once, at its last assignment; appended if there is none.

    Raises SlotError when the result would not differ in exactly that key, for every version of systemd.
    """
    if not PLAIN_VALUE.fullmatch(value):
        raise SlotError(
            f"{value!r} cannot be written to an environment file",
            remedy="use a path of letters, digits and . _ / + - only",
        )
    if not _NAME.fullmatch(key):
        raise SlotError(f"{key!r} is not the name of an environment variable")
    if value_of(content, key) is None:
        line_end = b"\r\n" if b"\r\n" in content else b"\n"
        line = f"{key}={value}".encode() + line_end
        results = [content + separator + line for separator in (b"", line_end, line_end * 2)]
    else:
        results = [_with_last_set(content, key.encode(), value.encode())]
    for result in results:
        if _differ_only_in(key, value, content, result):
            return result
    raise SlotError(
        f"{key} cannot be changed without changing the rest of the file",
        remedy="check for an unterminated quote or a backslash at the end of a line",
    )


def removed(content: bytes, key: str) -> bytes:
    """`content` without any assignment of `key`; every other byte is kept. Raises SlotError as `replaced` does."""
    kept, position = [], 0
    for ours in (each for each in _assignments(content, comments_continue=False) if each.key == key.encode()):
        kept.append(content[position : ours.start])
        position = ours.end
    result = b"".join((*kept, content[position:]))
    for comments_continue in (False, True):
        without = parse(content, comments_continue=comments_continue)
        without.pop(key, None)
        if parse(result, comments_continue=comments_continue) != without:
            raise SlotError(
                f"{key} cannot be removed without changing the rest of the file",
                remedy="check for an unterminated quote or a backslash at the end of a line",
            )
    return result


def _with_last_set(content: bytes, key: bytes, value: bytes) -> bytes:
    ours = [each for each in _assignments(content, comments_continue=False) if each.key == key]
    kept, position = [], 0
    for duplicate in ours[:-1]:
        kept.append(content[position : duplicate.start])
        position = duplicate.end
    last = ours[-1]
    return b"".join((*kept, content[position : last.value_start], value, content[last.value_end :]))


def _differ_only_in(key: str, value: str, before: bytes, after: bytes) -> bool:
    readers: tuple[Callable[[bytes], dict[str, str]], ...] = (parse, lambda text: parse(text, comments_continue=True))
    return len(after) <= MAX_BYTES and all(read(after) == {**read(before), key: value} for read in readers)


def _assignments(content: bytes, *, comments_continue: bool) -> Iterator[_Assignment]:
    comment = _COMMENT_253 if comments_continue else _COMMENT_254
    position = 0
    while True:
        blanks_start, position = position, _match_end(_BLANKS, content, position)
        if position == len(content):
            return
        if passed := comment.match(content, position):
            position = passed.end()
            continue
        key_end = _match_end(_KEY, content, position)
        if content[key_end : key_end + 1] != b"=":
            position = key_end
            continue
        value, value_end = _value_at(content, key_end + 1)
        end = _match_end(_LINE_END, content, value_end)
        yield _Assignment(
            key=content[position:key_end].rstrip(b" \t"),
            value=value,
            value_start=key_end + 1,
            value_end=value_end,
            start=_line_start(content, blanks_start, position),
            end=end,
        )
        position = end


def _value_at(content: bytes, position: int) -> tuple[bytes, int]:
    """The value that starts at `position`, and the end of its bytes: quoted parts, then an unquoted part."""
    parts = []
    while quoted := _QUOTED.match(content, position):
        position = quoted.end()
        double = quoted["double"]
        parts.append(quoted["single"] if double is None else _ESCAPED.sub(_in_double_quotes, double))
    unquoted = _UNQUOTED.match(content, position)
    assert unquoted is not None, "it matches nothing as well"
    parts.append(_ESCAPED.sub(_without_quotes, unquoted["text"]))
    return b"".join(parts), unquoted.end()


def _in_double_quotes(escape: re.Match[bytes]) -> bytes:
    character = escape[1]
    if character == b"\n":
        return b""
    return character if character in b'"\\`$' else b"\\" + character


def _without_quotes(escape: re.Match[bytes]) -> bytes:
    return b"" if escape[1] in b"\r\n" else escape[1]


def _match_end(pattern: re.Pattern[bytes], content: bytes, position: int) -> int:
    found = pattern.match(content, position)
    return position if found is None else found.end()


def _line_start(content: bytes, blanks_start: int, position: int) -> int:
    newline = max(content.rfind(b"\n", blanks_start, position), content.rfind(b"\r", blanks_start, position))
    return blanks_start if newline < 0 else newline + 1


def _text(raw: bytes, content: bytes, where: _Assignment) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = None
    if text is None or _NONCHARACTER.search(text):
        line = content.count(b"\n", 0, where.value_start) + 1
        raise SlotError(f"systemd rejects the file: line {line} is not valid UTF-8", remedy="correct the line")
    return text
