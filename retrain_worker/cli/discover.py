"""`discover`: which files of this host hold training data, and why the others do not. No file found is changed."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.printable import printable
from retrain_worker.errors import RefuseError, RetrainError, UsageError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from retrain_worker.cli.progress import SearchActivity
    from retrain_worker.discovery.configured_paths import PathSetting
    from retrain_worker.discovery.discover import Discovery
    from retrain_worker.discovery.proof_pack import ProofPack, Quality


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "exit: 0 READY, 11 NOT READY, 12 INTERRUPTED (the pack holds what was found until then), 2 usage, "
        "78 invalid settings"
    )
    parser.add_argument("roots", nargs="*", type=Path, metavar="ROOT", help="directories to search (default: /)")
    borders = parser.add_mutually_exclusive_group()
    borders.add_argument(
        "--one-file-system", action="store_true", help="stay on the file system of each ROOT (default)"
    )
    borders.add_argument(
        "--cross-file-systems", action="store_true", help="enter file systems mounted below a ROOT, too"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where PROOF_PACK_<date>.md and .json are written (default: the current directory)",
    )
    options.add_places(parser)
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Search, audit the source, write the pack, print it. Raises UsageError first when DIR is not writable."""
    from retrain_worker.cli.progress import SearchActivity
    from retrain_worker.cli.screen import as_json
    from retrain_worker.discovery.discover import discover, with_verdict
    from retrain_worker.discovery.progress import Stopped
    from retrain_worker.discovery.proof_pack_screen import screen

    settings = options.read_settings(arguments)
    out = _writable(arguments.out)
    configured = tuple(_configured(arguments, settings))
    quality, interrupted = None, ""
    with SearchActivity() as progress:
        found = discover(
            arguments.roots or [Path("/")],
            cross_file_systems=arguments.cross_file_systems,
            configured=configured,
            redis_url=str(settings.redis_url),
            now=datetime.now(UTC),
            progress=progress,
        )
        try:
            quality = _quality(arguments, found, progress)
        except Stopped as stopped:
            interrupted = str(stopped)
    audited_pack = with_verdict(found.pack, quality, interrupted=found.pack.interrupted or interrupted)
    own = frozenset(setting.where for setting in configured)
    pack = replace(audited_pack, next_commands=tuple(_next_commands(arguments, audited_pack, found.source_path, own)))
    text = as_json(pack)
    written = _write(out, pack, text)
    print(text if arguments.json else screen(pack))
    print(f"\nwritten     {' and '.join(map(printable, written))}", file=sys.stderr if arguments.json else sys.stdout)
    return ExitCode.INTERRUPTED if pack.interrupted else ExitCode.DONE if pack.is_ready else ExitCode.REFUSED


def _configured(arguments: argparse.Namespace, settings: Settings) -> Iterator[PathSetting]:
    """The database path of our own settings."""
    from retrain_worker.discovery.configured_paths import PathSetting

    env_file = options.env_file_of(arguments)
    if settings.database_path is not None and (env_file or {"DB_PATH", "DATABASE_URL"} & os.environ.keys()):
        name = "DATABASE_URL" if os.environ.get("DATABASE_URL") and not env_file else "DB_PATH"
        where = printable(env_file.resolve()) if env_file else "the environment"
        yield PathSetting(where, name, settings.database_path)


def _quality(arguments: argparse.Namespace, found: Discovery, progress: SearchActivity) -> Quality | None:
    """The audit of the source. None without a source. Raises Stopped."""
    from retrain_worker.daemon.source_audit import audit_source
    from retrain_worker.discovery.proof_pack import Quality
    from retrain_worker.discovery.read_only_sqlite import safe_to_open

    if found.source_path is None or found.pack.interrupted:
        return None
    progress.begin_without_steps("auditing the source")
    try:
        with safe_to_open(found.source_path) as path:
            arguments.db = str(path)
            pulled, audited = audit_source(options.read_settings(arguments), report=lambda _message: None)
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
    arguments: argparse.Namespace, pack: ProofPack, source_path: Path | None, own: frozenset[str]
) -> Iterator[str]:
    """The changes of our own settings, as comments, and the command."""
    places = [
        word
        for name, path in (("--home", arguments.home), ("--env-file", arguments.env_file))
        if path
        for word in (name, _quoted(path.absolute()))
    ]
    if pack.interrupted:
        roots = [_quoted(Path(root)) for root in arguments.roots]
        yield " ".join(("retrain-worker discover", *roots, *places))
        return
    if source_path is None:
        if not arguments.cross_file_systems or arguments.roots:
            yield " ".join(("retrain-worker discover / --cross-file-systems", *places))
        else:
            yield "# restore a database with labelled rows in ai_training_samples, then: retrain-worker discover"
        return
    source = _quoted(source_path)
    for each in pack.configured:
        if each.is_wrong and each.where in own:
            value = f"sqlite:///{source}" if "url" in each.name.lower() else source
            yield f"# in {each.where}: {each.name}={value} instead of {each.path}"
    yield " ".join(("retrain-worker", "once" if pack.is_ready else "audit", "--db", source, *places))


def _quoted(path: Path) -> str:
    """`path` quoted for a shell, bytes that are not printable as escapes."""
    raw = bytes(path)
    if str(path).isprintable():
        return shlex.quote(str(path))
    escaped = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
    return f"$'{''.join(escaped)}'"


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be created ({error.strerror})"
        raise UsageError(what, where=printable(folder), remedy="name another --out") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError("not writable", where=printable(folder), remedy="name another --out")
    return folder.resolve()


def _write(out: Path, pack: ProofPack, text: str) -> tuple[Path, Path]:
    """Both files under the first free name: nothing is overwritten, no link followed."""
    from retrain_worker.discovery.proof_pack_markdown import markdown

    stem, number = f"PROOF_PACK_{pack.made_at:%Y-%m-%d}", 1
    while any((out / f"{stem}{suffix}").exists() for suffix in (".md", ".json")):
        number += 1
        stem = f"PROOF_PACK_{pack.made_at:%Y-%m-%d}_{number}"
    files = out / f"{stem}.md", out / f"{stem}.json"
    for file, content in zip(files, (markdown(pack), text + "\n"), strict=True):
        with file.open("x", encoding="utf-8") as opened:
            opened.write(content)
    return files
