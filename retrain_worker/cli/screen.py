"""What a command prints: text as wide as the terminal, in colour where it has them, or one JSON document.

rich reads NO_COLOR, FORCE_COLOR and TERM. What is not a terminal gets plain text, 100 columns wide unless COLUMNS sets
another width.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from retrain_worker.adapters.journal_stream import ERROR_MARK, is_journal
from retrain_worker.domain.printable import printable, printable_texts
from retrain_worker.errors import RetrainError, SettingsError

if TYPE_CHECKING:
    import argparse

    from rich.console import Console, RenderableType

_NARROWEST, _WIDEST, _WITHOUT_TERMINAL = 60, 200, 100


def width() -> int:
    """Columns of the terminal, or of what stands for it."""
    return min(max(shutil.get_terminal_size((_WITHOUT_TERMINAL, 24)).columns, _NARROWEST), _WIDEST)


def console(*, stderr: bool = False) -> Console:
    """A console for text that may contain brackets and colons, which are no markup."""
    from rich.console import Console

    return Console(
        stderr=stderr,
        width=width(),
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def show(arguments: argparse.Namespace, value: object, text: Callable[[], RenderableType]) -> None:
    """Print `value` as one JSON document with --json, else `text`."""
    if arguments.json:
        print(as_json(value))
    else:
        print_text(text())


def print_text(text: RenderableType) -> None:
    """Print `text` without the blanks that fill its lines."""
    screen = console()
    with screen.capture() as captured:
        screen.print(text, crop=False)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def as_json(value: object) -> str:
    """One line; a number that is not finite becomes null, what is not UTF-8 or not printable an escape."""
    import json

    import msgspec

    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(printable_texts(msgspec.to_builtins(value))).decode()
    return text if text.isprintable() else json.dumps(json.loads(text))


def show_error(error: RetrainError, *, exit_code: int, json: bool) -> None:
    """One line for each problem on stderr; with --json an object on stdout as well."""
    from retrain_worker.cli.results import ErrorReport, Failure

    problems = error.problems if isinstance(error, SettingsError) else (str(error),)
    printed = tuple(map(printable, problems))
    mark = ERROR_MARK if is_journal(2) else ""
    for problem in printed:
        print(f"{mark}retrain-worker: {problem}", file=sys.stderr)
    if json:
        report = ErrorReport(kind=type(error).__name__, message=printable(error), problems=printed, exit_code=exit_code)
        print(as_json(Failure(error=report)))


def pairs(lines: Iterable[tuple[str, str, str]]) -> RenderableType:
    """A label, a text and its style for each; long texts continue below their begin, words are never broken.

    What is not a terminal gets each text in one line, unless COLUMNS is set.
    """
    from rich.console import Group
    from rich.text import Text

    listed = list(lines)
    indent = max((len(label) for label, _, _ in listed), default=0) + 2 if any(label for label, _, _ in listed) else 0
    is_wrapped = sys.stdout.isatty() or "COLUMNS" in os.environ
    space = width() - indent if is_wrapped else sys.maxsize
    shown = []
    for label, text, style in listed:
        wrapped = textwrap.wrap(printable(text), space, break_long_words=False, break_on_hyphens=False) or [""]
        for place, line in enumerate(wrapped):
            head = label if place == 0 else ""
            shown.append(Text.assemble((head.ljust(indent), "dim"), (line, style), no_wrap=True, overflow="ignore"))
    return Group(*shown)


def paragraph(text: str, style: str = "") -> RenderableType:
    """One text, as in `pairs`."""
    return pairs([("", text, style)])
