"""`discover`: which files of this host hold training data, and why not the others. Changes nothing it looks at."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.discovery.pack import shown
from retrain_worker.errors import RefuseError, RetrainError, UsageError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.discovery.discover import Discovery
    from retrain_worker.discovery.pack import ProofPack, Quality

_EXIT_NOT_READY = 11
_SECONDS_BETWEEN_SENTENCES = 1.0


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "discover",
        help="which files of this host hold training data: the proof pack",
        epilog="exit: 0 READY, 11 NOT READY, 2 usage, 78 wrong settings",
    )
    parser.add_argument("roots", nargs="*", type=Path, metavar="ROOT", help="directories to look through (default: /)")
    borders = parser.add_mutually_exclusive_group()
    borders.add_argument(
        "--one-file-system", action="store_true", help="stay on the file system of each ROOT (default)"
    )
    borders.add_argument("--cross-file-systems", action="store_true", help="enter what is mounted within a ROOT, too")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where PROOF_PACK_<date>.md and .json are written (default: the current directory)",
    )
    options.add_places(parser)
    parser.add_argument("--json", action="store_true", help="print the pack as one JSON object")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Look, audit the source, write the pack, print it. Raises UsageError before looking when DIR cannot be written."""
    from retrain_worker.cli.once import as_json
    from retrain_worker.discovery.discover import discover, with_verdict
    from retrain_worker.discovery.pack_summary import screen

    settings = options.read_settings(arguments)
    out = _writable(arguments.out)
    say = _now_and_then(lambda message: print(message, file=sys.stderr, flush=True))
    configured = tuple(_configured(arguments, settings))
    found = discover(
        arguments.roots or [Path("/")],
        cross_file_systems=arguments.cross_file_systems,
        configured=configured,
        redis_url=str(settings.redis_url),
        now=datetime.now(UTC),
        say=say,
    )
    judged = with_verdict(found.pack, _quality(arguments, found, say))
    ours = frozenset(where for where, *_ in configured)
    pack = replace(judged, next_commands=tuple(_next_commands(arguments, judged, found.source_path, ours)))
    text = as_json(pack)
    written = _write(out, pack, text)
    print(text if arguments.json else screen(pack))
    print(f"\nwritten     {' and '.join(map(str, written))}", file=sys.stderr if arguments.json else sys.stdout)
    return 0 if pack.is_ready else _EXIT_NOT_READY


def _configured(arguments: argparse.Namespace, settings: Settings) -> Iterator[tuple[str, str, Path]]:
    """Where our own database path stands, its name, and the path."""
    env_file = options.env_file_of(arguments)
    if settings.database_path is not None and (env_file or {"DB_PATH", "DATABASE_URL"} & os.environ.keys()):
        name = "DATABASE_URL" if os.environ.get("DATABASE_URL") and not env_file else "DB_PATH"
        yield shown(env_file.resolve()) if env_file else "the environment", name, settings.database_path


def _quality(arguments: argparse.Namespace, found: Discovery, say: Callable[[str], None]) -> Quality | None:
    """The audit of the source. None without a source."""
    from retrain_worker.daemon.source_audit import audit_source
    from retrain_worker.discovery.pack import Quality
    from retrain_worker.discovery.sqlite_file import safe_to_open

    if found.source_path is None:
        return None
    try:
        with safe_to_open(found.source_path) as path:
            arguments.db = str(path)
            pulled, audited = audit_source(options.read_settings(arguments), report=say)
    except RefuseError as error:
        return Quality(is_fit=False, reasons=(f"{error.what}; {error.remedy}",))
    except RetrainError as error:
        return Quality(is_fit=False, reasons=(), problem=f"{error.what}; {error.remedy}")
    except OSError as error:
        return Quality(is_fit=False, reasons=(), problem=f"the source could not be audited: {error}")
    return Quality(
        is_fit=audited.verdict.is_fit,
        reasons=audited.verdict.reasons,
        findings=audited.verdict.findings,
        quarantined=pulled.quarantined,
        contradictions=pulled.contradictions,
    )


def _next_commands(
    arguments: argparse.Namespace, pack: ProofPack, source_path: Path | None, ours: frozenset[str]
) -> Iterator[str]:
    """What to change of our own settings, as comments, and the command."""
    places = [
        word
        for name, path in (("--home", arguments.home), ("--env-file", arguments.env_file))
        if path
        for word in (name, _quoted(path.absolute()))
    ]
    if source_path is None:
        if not arguments.cross_file_systems or arguments.roots:
            yield " ".join(("retrain-worker discover / --cross-file-systems", *places))
        else:
            yield "# restore a database with labelled rows in ai_training_samples, then: retrain-worker discover"
        return
    source = _quoted(source_path)
    for each in pack.configured:
        if each.is_wrong and each.where in ours:
            value = f"sqlite:///{source}" if "url" in each.name.lower() else source
            yield f"# in {each.where}: {each.name}={value} instead of {each.path}"
    yield " ".join(("retrain-worker", "once" if pack.is_ready else "audit", "--db", source, *places))


def _quoted(path: Path) -> str:
    """For a shell; bytes that no terminal shows as escapes."""
    raw = bytes(path)
    if str(path).isprintable():
        return shlex.quote(str(path))
    escaped = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
    return f"$'{''.join(escaped)}'"


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot be made ({error.strerror})", where=str(folder), remedy="name another --out") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError("cannot be written", where=str(folder), remedy="name another --out")
    return folder.resolve()


def _write(out: Path, pack: ProofPack, text: str) -> tuple[Path, Path]:
    """Both files under the first name that is free: nothing is overwritten, no link followed."""
    from retrain_worker.discovery.markdown import markdown

    stem, number = f"PROOF_PACK_{pack.made_at:%Y-%m-%d}", 1
    while any((out / f"{stem}{suffix}").exists() for suffix in (".md", ".json")):
        number += 1
        stem = f"PROOF_PACK_{pack.made_at:%Y-%m-%d}_{number}"
    files = out / f"{stem}.md", out / f"{stem}.json"
    for file, content in zip(files, (markdown(pack), text + "\n"), strict=True):
        with file.open("x", encoding="utf-8") as opened:
            opened.write(content)
    return files


def _now_and_then(say: Callable[[str], None]) -> Callable[[str], None]:
    """Not more than one sentence a second."""
    said_at = time.monotonic()

    def now_and_then(message: str) -> None:
        nonlocal said_at
        now = time.monotonic()
        if now - said_at >= _SECONDS_BETWEEN_SENTENCES:
            said_at = now
            say(message)

    return now_and_then
