"""The environment file: read as systemd reads it, one key changed, every other byte kept."""

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrain_worker.domain import env_file
from retrain_worker.errors import SlotError

KEY = "PATCHTST_MODEL_PATH"
NEW = "/opt/quantum/ai_engine/models/patchtst_v20260110_120000.pth"
SYSTEMD = next(iter(sorted(Path("/usr/lib").glob("*/systemd/libsystemd-shared-25[0-3].so"))), None)

#: pieces that matter to the grammar, and enough of them to meet
PIECES = st.sampled_from(
    [
        b"A",
        b"B",
        b"KEY",
        b"=",
        b"=",
        b'"',
        b"'",
        b"\\",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b" ",
        b"\t",
        b"#",
        b";",
        b"x",
        b"$",
        b"`",
        "é".encode(),
        b"\xff",
        "\ufdd0".encode(),
        b"1",
        b"export ",
        b"\xef\xbb\xbf",
        b"\x01",
        b"\x0b",
        KEY.encode(),
        b"\n" + KEY.encode() + b"=",
        b"\nB=",
        b"# c \\\n",
        b"\0",
    ]
)
FILES = st.lists(PIECES, max_size=40).map(b"".join)


@pytest.fixture(scope="module")
def systemd_reads(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What systemd's own parser (250 to 253) makes of a file, or None where it refuses it."""
    if SYSTEMD is None:
        pytest.skip("no systemd library of versions 250 to 253 here")
    library = ctypes.CDLL(str(SYSTEMD))
    library.env_assignment_is_valid.restype = ctypes.c_bool
    library.log_set_max_level(0)
    path = tmp_path_factory.mktemp("systemd") / "corpus.env"

    def read(content: bytes) -> dict[str, str] | None:
        path.write_bytes(content)
        found = ctypes.POINTER(ctypes.c_char_p)()
        if library.load_env_file(None, os.fsencode(path), ctypes.byref(found)) < 0:
            return None
        lines: list[Any] = []
        while found and found[len(lines)] is not None:
            lines.append(found[len(lines)])
        return dict(line.decode().split("=", 1) for line in lines if library.env_assignment_is_valid(line))

    return read


def read_or_none(content: bytes, **how: bool) -> dict[str, str] | None:
    try:
        return env_file.parse(content, **how)
    except SlotError:
        return None


@settings(max_examples=1500)
@given(content=FILES)
@example(b'A="x\\\ry\\\nz\\q\\$"\r\nB=x\\\r\ny\n')
@example(b"A=x \\ \t\nB='a' \"b\" c'd \nC=a\\\n  b\n")
def test_what_is_read_equals_what_systemd_reads(systemd_reads: Any, content: Any) -> None:
    assert read_or_none(content, comments_continue=True) == systemd_reads(content)


@settings(max_examples=800)
@given(content=FILES)
def test_systemd_sees_one_key_changed_and_nothing_else(systemd_reads: Any, content: Any) -> None:
    try:
        after = env_file.replaced(content, KEY, NEW)
    except SlotError:
        return
    assert systemd_reads(after) == {**systemd_reads(content), KEY: NEW}


@settings(max_examples=800)
@given(content=FILES)
@example(b"A=1\nB=2")
@example(f"{KEY}=/old\r\nB=2\r\n".encode())
def test_replacing_twice_changes_nothing_more_and_the_file_is_never_left_in_doubt(content: Any) -> None:
    try:
        after = env_file.replaced(content, KEY, NEW)
    except SlotError:
        return
    for how in (True, False):
        assert env_file.parse(after, comments_continue=how) == {
            **env_file.parse(content, comments_continue=how),
            KEY: NEW,
        }
    assert env_file.replaced(after, KEY, NEW) == after


@settings(max_examples=300)
@given(before=FILES, after=FILES)
def test_bytes_outside_the_assignment_are_kept(before: Any, after: Any) -> None:
    content = before + f"\n{KEY}=/old/model.pth\n".encode() + after
    try:
        changed = env_file.replaced(content, KEY, NEW)
    except SlotError:
        return
    if KEY.encode() not in before + after and env_file.parse(content).get(KEY) == "/old/model.pth":
        assert changed == before + f"\n{KEY}={NEW}\n".encode() + after


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", f"{KEY}={NEW}\n"),
        (b"A=1", f"A=1\n{KEY}={NEW}\n"),
        (b"A=1\r\n", f"A=1\r\n{KEY}={NEW}\r\n"),
        (b"# note \\", f"# note \\\n\n{KEY}={NEW}\n"),
        (b"A=1\\", f"A=1\\\n\n{KEY}={NEW}\n"),
        (f"{KEY}=/old".encode(), f"{KEY}={NEW}"),
        (f"  {KEY} = '/old'  \nB=2\n".encode(), f"  {KEY} ={NEW}\nB=2\n"),
        (f'{KEY}=/one\nA=1\n {KEY}="/t\\\nwo"\n# {KEY}=/no\n'.encode(), f"A=1\n {KEY}={NEW}\n# {KEY}=/no\n"),
        (f"export {KEY}=/old\n".encode(), f"export {KEY}=/old\n{KEY}={NEW}\n"),
        (f"\ufeff{KEY}=/old\n".encode(), f"\ufeff{KEY}=/old\n{KEY}={NEW}\n"),
    ],
)
def test_the_last_active_assignment_is_the_one_that_stays(content: bytes, expected: str) -> None:
    assert env_file.replaced(content, KEY, NEW) == expected.encode()


@pytest.mark.parametrize(
    "content",
    [
        b'A="open\n',
        b"A='open\n",
        b"A=1\0\n",
        b"A=\xff\n",
        f"# note \\\n{KEY}=/old\n".encode(),
        b"A=1\n" * 300_000,
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_refused(content: Any) -> None:
    with pytest.raises(SlotError):
        env_file.replaced(content, KEY, NEW)


def message_of(function: Any, *arguments: Any) -> str:
    """The message of the refusal."""
    with pytest.raises(SlotError) as refused:
        function(*arguments)
    return str(refused.value)


OPEN_QUOTE = "check for an unterminated quote or a backslash at the end of a line"


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (env_file.parse, (b"A" * (2**20 + 1),), "the file has 1,048,577 bytes, more than 1,048,576"),
        (env_file.parse, (b"A=1\0\n",), "systemd rejects the file: it contains a NUL byte; remove the byte"),
        (env_file.parse, (b"A=1\nB=\xff\n",), "systemd rejects the file: line 2 is not valid UTF-8; correct the line"),
        (env_file.parse, (b"\xffB=\n",), "systemd rejects the file: line 1 is not valid UTF-8; correct the line"),
        (
            env_file.parse,
            (b"\n\n\nA=\xef\xb7\x90",),  # a noncharacter
            "systemd rejects the file: line 4 is not valid UTF-8; correct the line",
        ),
        (
            env_file.value_of,
            (b"# note \\\nA=1\n", "A"),
            "the value of A depends on the version of systemd, because a comment ends in a backslash; "
            "remove the backslash at the end of the comment",
        ),
        (
            env_file.replaced,
            (b"A=1\n", "A", "/a b"),
            "'/a b' cannot be written to an environment file; use a path of letters, digits and . _ / + - only",
        ),
        (env_file.replaced, (b"A=1\n", "A B", "/a"), "'A B' is not the name of an environment variable"),
        (
            env_file.replaced,
            (b"A='open\n", "B", "1"),
            f"B cannot be changed without changing the rest of the file; {OPEN_QUOTE}",
        ),
        (
            env_file.replaced,
            (b"A" * (2**20 - 4) + b"\n", "B", "1"),
            f"B cannot be changed without changing the rest of the file; {OPEN_QUOTE}",
        ),
        (
            env_file.removed,
            (b"# note \\\nA=1\nB=2\n", "A"),
            f"A cannot be removed without changing the rest of the file; {OPEN_QUOTE}",
        ),
    ],
)
def test_a_refusal_has_the_cause_and_what_to_do(function: Any, arguments: Any, message: str) -> None:
    assert message_of(function, *arguments) == message


@pytest.mark.parametrize(
    ("content", "variables"),
    [
        (b"A=1\nB=2\rC=3\r\nD=4", {"A": "1", "B": "2", "C": "3", "D": "4"}),
        (b"A=1\nA=2\n", {"A": "2"}),
        (b"\n \t\r\n  A=1\n", {"A": "1"}),
        (b"# A=1\n; B=2\nC=3#4;5\n", {"C": "3#4;5"}),
        (b"no assignment\nA=1\n", {"A": "1"}),
        (b"no assignment", {}),
        (b"A \t=\t 1 2 \t\nB=\nC= \n", {"A": "1 2", "B": "", "C": ""}),
        (b"1A=1\nA-B=1\nexport C=1\n_D=1\n", {"_D": "1"}),
        (b"A='a b\\' B='\"'\n", {"A": "a b\\B='\"'"}),
        (b'A="a \\" \\\\ \\` \\$ \\n\\\nb"\n', {"A": 'a " \\ ` $ \\nb'}),
        (b"A='a'\"b\" 'c' d 'e'\n", {"A": "abcd 'e'"}),
        (b"A='a\nb'\nB=1\n", {"A": "a\nb", "B": "1"}),
        (b'A="\\X\\Y\\ "\n', {"A": "\\X\\Y\\ "}),
        (b"A='a", {"A": "a"}),
        (b'A="a\\', {"A": "a"}),
        (b"A=a\\ b\\n\\\nc\\\rd\\'\n", {"A": "a bncd'"}),
        (b"A=a\\ \nB=1\n", {"A": "a ", "B": "1"}),
        (b"A=a\\", {"A": "a"}),
        ("A=é\n".encode(), {"A": "é"}),
        (b"A=1=2\n", {"A": "1=2"}),
        (b"AX=\\X\nA\x0b=1\n", {"AX": "X"}),
        (b"A==\n", {"A": "="}),
        (b"=1\nA=1\n", {"A": "1"}),
    ],
)
def test_each_rule_of_the_grammar(content: bytes, variables: dict[str, str], systemd_reads: Any) -> None:
    assert env_file.parse(content) == env_file.parse(content, comments_continue=True) == variables
    assert systemd_reads(content) == variables
    for key, value in variables.items():
        assert env_file.value_of(content, key) == value
    assert env_file.value_of(content, "Z") is None


@pytest.mark.parametrize(
    ("content", "continued", "ended"),
    [
        (b"# note \\\nA=1\nB=2\n", {"B": "2"}, {"A": "1", "B": "2"}),
        (b"# note \\\rA=1\nB=2\n", {"B": "2"}, {"A": "1", "B": "2"}),
        (b"# a \\b\nA=1\n", {"A": "1"}, {"A": "1"}),
        (b"A=1\n; note \\", {"A": "1"}, {"A": "1"}),
    ],
)
def test_a_comment_that_ends_in_a_backslash_is_read_by_each_version_in_its_way(
    content: bytes, continued: dict[str, str], ended: dict[str, str]
) -> None:
    assert env_file.parse(content, comments_continue=True) == continued
    assert env_file.parse(content) == ended


def test_a_file_of_the_largest_size_is_read_and_written() -> None:
    content = b"#" * (2**20 - 5) + b"\n"

    assert env_file.parse(content) == {}
    assert env_file.replaced(content, "A", "1") == content + b"A=1\n"


@pytest.mark.parametrize(
    ("content", "result"),
    [
        (b"A=1\nB=2\n", b"B=2\n"),
        (b"B=2\nA=1", b"B=2\n"),
        (b"B=2\r\n  A = '1\n2' \r\n# A=1\r\n A=3\rC=1", b"B=2\r\n# A=1\r\nC=1"),
        (b"B=2\n\n\n \tA=1\n\n", b"B=2\n\n\n\n"),
        (b"\n A=1\nB=2\n", b"\nB=2\n"),
        (b"B=2\n\r\r A=1\nC=3\n", b"B=2\n\r\rC=3\n"),
        (b"B=2\n", b"B=2\n"),
        (b"B=2\\\nA=1\n", b"B=2\\\nA=1\n"),
        (b"", b""),
    ],
)
def test_each_assignment_of_a_removed_key_is_cut_out_with_its_line(content: bytes, result: bytes) -> None:
    assert env_file.removed(content, "A") == result


@pytest.mark.parametrize("value", ["", "/a b", "/a\nB=1", "/a$b", '"/a"', "/a;b", "/ä", "/a\\b"])
def test_a_value_that_would_need_quoting_is_refused(value: str) -> None:
    with pytest.raises(SlotError):
        env_file.replaced(b"A=1\n", KEY, value)


def test_a_comment_may_hold_any_byte() -> None:
    assert env_file.replaced(b"# \xff\xfe\nA=1\n", "A", "2") == b"# \xff\xfe\nA=2\n"


def test_a_megabyte_is_read() -> None:
    content = b"# filler\n" * 100_000 + b"A=1\n"
    assert env_file.replaced(content, "A", "2") == content[:-2] + b"2\n"


@given(FILES)
@example(b"A=1\nPATCHTST_MODEL_PATH=/x\r\nPATCHTST_MODEL_PATH='/y'\nB=2")
def test_a_removed_key_is_gone_for_every_reader_and_the_others_are_as_they_were(content: Any) -> None:
    try:
        before = [env_file.parse(content, comments_continue=each) for each in (False, True)]
        result = env_file.removed(content, KEY)
    except SlotError:
        return
    for each, was in zip((False, True), before, strict=True):
        was.pop(KEY, None)
        assert env_file.parse(result, comments_continue=each) == was
    assert env_file.removed(result, KEY) == result
