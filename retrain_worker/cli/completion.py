"""`completion`: completions for bash, zsh and fish (shtab) and the manual page (argparse-manpage), from the parser."""

from __future__ import annotations

import argparse
from pathlib import Path

from retrain_worker.cli.exit_codes import ExitCode

#: what is printed -> its place below share/
FILES = {
    "bash": "bash-completion/completions/retrain-worker",
    "zsh": "zsh/site-functions/_retrain-worker",
    "fish": "fish/vendor_completions.d/retrain-worker.fish",
    "man": "man/man1/retrain-worker.1",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "all: write each file to its place below DIR; `make install` and the Debian package do so."
    parser.add_argument("what", choices=(*FILES, "all"), help="the completions for a shell, or the manual page")
    parser.add_argument("--to", type=Path, metavar="DIR", default=Path("/usr/local/share"), help="for `all` only")


def execute(arguments: argparse.Namespace) -> int:
    """Print them, or write them."""
    if arguments.what != "all":
        print(_text(arguments.what))
        return ExitCode.DONE
    for what, place in FILES.items():
        path: Path = arguments.to / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{_text(what)}\n")
        print(path)
    return ExitCode.DONE


def _text(what: str) -> str:
    import shtab
    from argparse_manpage.manpage import Manpage

    from retrain_worker import __version__
    from retrain_worker.cli.parser import parser_of
    from retrain_worker.cli.verbs import VERBS

    parser = parser_of(*VERBS)
    if what != "man":
        return shtab.complete(parser, shell=what)
    page = Manpage(parser, format="single-commands-section")
    page.source, page.manual = f"retrain-worker {__version__}", "Commands"
    return str(page)
