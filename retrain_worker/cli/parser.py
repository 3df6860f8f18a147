"""The command line of every verb: argparse, with help in groups, an example for each verb, and suggestions."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Never

from retrain_worker import __version__
from retrain_worker.cli.exit_codes import MEANINGS
from retrain_worker.cli.screen import width
from retrain_worker.cli.verbs import GROUPS, VERBS
from retrain_worker.errors import UsageError

PROGRAM = "retrain-worker"
_DESCRIPTION = "Continuous retraining of PatchTST: audited data, statistical gates, an atomic model swap."
_NO_VERB = (
    f"`{PROGRAM}` alone shows the state and what to do next; `{PROGRAM} VERB --help` lists the options of a verb."
)


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as what every verb prints."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=width() - 2)


class Parser(argparse.ArgumentParser):
    """Reports wrong usage as a UsageError that suggests what was meant."""

    def error(self, message: str) -> Never:
        """Raise UsageError."""
        raise UsageError(f"{message[:1].lower()}{message[1:]}", remedy=f"see `{self.prog} --help`")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The chosen verb and its options; `execute` does it. Raises UsageError.

    Only the module of the chosen verb is imported. Without a verb the state is shown, and what to do next.
    """
    instance, arguments = _instance_first(arguments)
    verb = next((word for word in arguments if not word.startswith("-")), "")
    if verb and verb not in VERBS:
        raise UsageError(f'there is no verb "{verb}"', remedy=_suggestion(verb, VERBS, help_of=PROGRAM))
    if not arguments:
        arguments, verb = ("status", "--next"), "status"
    parsed, unknown = parser_of(verb).parse_known_args([*arguments[:1], *instance, *arguments[1:]])
    if unknown:
        parser: argparse.ArgumentParser = parsed.parser
        known = re.findall(r"--[a-z-]+", parser.format_usage())
        raise UsageError(
            f'there is no option or argument "{unknown[0]}"',
            where=parser.prog,
            remedy=_suggestion(unknown[0], known, help_of=parser.prog),
        )
    return parsed


def _instance_first(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """--instance before the verb, and the other arguments."""
    option, separator, _ = arguments[0].partition("=") if arguments else ("", "", "")
    num_words = 0 if option not in ("-i", "--instance") else 1 if separator else 2
    return arguments[:num_words], arguments[num_words:]


def parser_of(*verbs: str) -> Parser:
    """The parser with the options of these verbs: of the chosen one, or of all for completions and the man page."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] [-i NAME] VERB ...",
        description=_wrapped(_DESCRIPTION),
        epilog="\n\n".join((*_groups(), _exit_codes(), _wrapped(_NO_VERB))),
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    added = parser.add_subparsers(dest="verb", metavar="VERB", required=True, help="one of those below", prog=PROGRAM)
    for name in verbs:
        verb = VERBS.get(name)
        if verb is None:
            continue
        own = added.add_parser(name, help=verb.help, formatter_class=_Help)
        module = importlib.import_module(f"retrain_worker.cli.{name.replace('-', '_')}")
        own.set_defaults(execute=getattr(module, "execute", None), parser=own)
        module.add_options(own)
        own.description = _wrapped(own.description or f"{verb.help[:1].upper()}{verb.help[1:]}.")
        example = f"example:\n  {PROGRAM} {verb.example}"
        own.epilog = "\n\n".join((_wrapped(own.epilog), example) if own.epilog else (example,))
    return parser


def _groups() -> Iterator[str]:
    """The verbs by group, as text."""
    indent = max(map(len, VERBS)) + 4
    for title, verbs in GROUPS.items():
        lines = (
            _wrapped(f"  {name:<{indent - 2}}{verb.help}", subsequent_indent=" " * indent)
            for name, verb in verbs.items()
        )
        yield "\n".join((f"{title}:", *lines))


def _exit_codes() -> str:
    lines = (_wrapped(f"  {code:>2}  {meaning}", subsequent_indent=" " * 6) for code, meaning in MEANINGS.items())
    return "\n".join(("exit codes:", *lines))


def _suggestion(word: str, known: Iterable[str], *, help_of: str) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"see `{help_of} --help`"


def _wrapped(text: str, **options: Any) -> str:
    """`text` in lines of the terminal's width."""
    return textwrap.fill(text, width() - 2, break_on_hyphens=False, **options)
