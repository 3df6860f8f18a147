"""The code in the documents: commands are those of the parser, Python compiles, JSON and diagrams are well formed."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrain_worker.cli import parse
from retrain_worker.errors import UsageError
from tests.reference_pages import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: what stands for a value in an example
PLACES = {
    "RUN": "20260110_033000",
    "VERSION": "patchtst_v20260110_033000",
    "A": "20260110_033000",
    "B": "20260111_033000",
}


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of these languages."""
    for language, code in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE):
        if language in languages:
            yield code


def commands(page: Path) -> Iterator[str]:
    """Every call of retrain-worker in blocks without a language or of a shell, and in indented ones."""
    text = page.read_text()
    shown = "\n".join((*blocks(page, "", "sh", "bash"), *re.findall(r"^    (\S.*)$", text, re.MULTILINE)))
    for line in shown.splitlines():
        for part in re.split(r"\s#|;|&&|\|(?= )", line):
            words = part.split()
            while words and ("=" in words[0] or words[0] in ("sudo", "$")):
                words.pop(0)
            if words[:1] == ["retrain-worker"] and words[1:2] != ["|"]:
                yield " ".join(words)


def mentions(page: Path) -> list[str]:
    """Calls between backquotes in the text; a name alone stands for the verb."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [call.partition(" | ")[0] for call in re.findall(r"`(retrain-worker [a-z][^`]*)`", prose)]


def parsed(call: str) -> str:
    """The verb of a call. Raises UsageError."""
    words = [PLACES.get(word, word) for word in shlex.split(re.sub(r"\[.*?\]", "", call))][1:]
    verb: str = parse(words).verb
    return verb


CALLS = sorted({(page.relative_to(ROOT).as_posix(), call) for page in PAGES for call in commands(page)})


def test_calls_are_found_on_many_pages() -> None:
    assert len(CALLS) > 25
    assert len({page for page, _ in CALLS}) > 8


@pytest.mark.parametrize(("page", "call"), CALLS)
def test_a_command_that_is_shown_can_be_parsed(page: str, call: str) -> None:
    if "--version" not in call:
        assert parsed(call), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_command_that_is_mentioned_exists(page: Path) -> None:
    for call in mentions(page):
        try:
            parsed(call)
        except UsageError as error:
            assert "required" in str(error), call  # the name of a verb, without what it needs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_is_valid(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_is_closed_and_has_a_known_language(page: Path) -> None:
    fences = re.findall(r"^ *```(\w*)$", page.read_text(), re.MULTILINE)

    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= {"", "sh", "bash", "python", "text", "mermaid", "sql"}
    assert set(fences[1::2]) <= {""}


def test_no_code_block_names_a_file_of_the_examples_that_is_missing() -> None:
    named = {name for page in PAGES for name in re.findall(r"\bexamples/[\w.]+", page.read_text())}

    assert named
    assert {name for name in named if not (ROOT / name.rstrip(".")).exists()} == set()
