"""`init-db`: a small valid trading database, to see what this program reads and to try it out."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode

#: from these a run learns enough to be promoted
_ROWS = 6_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "A table ai_training_samples with rows of a simulated market, which `audit` accepts and `once` can learn from. "
        "docs/reference/data-contract.md describes its columns."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the SQLite database; it must not exist")
    parser.add_argument("--rows", type=int, default=_ROWS, metavar="N", help=f"number of rows (default {_ROWS})")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="seed of the market")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Write it. Raises UsageError when the file exists."""
    from retrain_worker.cli.results import WrittenFiles
    from retrain_worker.cli.screen import as_json
    from retrain_worker.demo.market import write_market
    from retrain_worker.domain.printable import printable
    from retrain_worker.errors import UsageError

    file: Path = arguments.file.expanduser().absolute()
    if file.exists():
        raise UsageError("the file exists and is not changed", where=printable(file), remedy="name another file")
    if arguments.rows < 1:
        raise UsageError("at least one row is required", where="--rows")
    write_market(file, seed=arguments.seed, end=datetime.now(UTC), rows=arguments.rows)
    next_step = f"next: retrain-worker once --db {printable(file)} --home {printable(file.with_suffix(''))}-home"
    print(as_json(WrittenFiles(files=(str(file),))) if arguments.json else f"{printable(file)}\n{next_step}")
    return ExitCode.DONE
