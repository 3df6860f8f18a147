"""Puts the proof pack of a host together: walk, look into each file, find the source, judge what points elsewhere."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from retrain_worker.discovery import services
from retrain_worker.discovery.content import Kind
from retrain_worker.discovery.databases import Survey, judged, survey
from retrain_worker.discovery.files import csv_file, model_file, observations, redis_file
from retrain_worker.discovery.host import host, live_redis, unit_state
from retrain_worker.discovery.pack import EnvFile, FileFacts, ProofPack, Quality, Source, Unit, shown
from retrain_worker.discovery.scan import Found, scan
from retrain_worker.discovery.source import describe
from retrain_worker.discovery.suitability import suitability

#: larger files are not compared byte by byte
_MAX_HASHED_BYTES = 4 << 30
_DATABASES = (Kind.SQLITE, Kind.NO_DATABASE)
_COMPARED = (Kind.SQLITE, Kind.CSV, Kind.MODEL, Kind.JSON_LINES, Kind.REDIS)
Say = Callable[[str], None]
Facts = Mapping[Path, FileFacts]
Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """The pack, and the source's path as the file system knows it."""

    pack: ProofPack
    source_path: Path | None


def discover(
    roots: Sequence[Path],
    *,
    cross_file_systems: bool,
    configured: Sequence[tuple[str, str, Path]],
    redis_url: str,
    now: datetime,
    say: Say,
) -> Discovery:
    """Look through `roots`. `configured`: (where, name, path) of each database that our own settings name.

    Raises UsageError when a root is no directory; everything else that goes wrong is a finding in the pack.
    """
    found, walk = scan(roots, cross_file_systems=cross_file_systems, say=say)
    facts = _facts(found, say)
    env_files, units, named = _services(found, facts)
    named = [*configured, *named]
    surveys = [survey(each) for each in _said(found, _DATABASES, say)]
    databases, source = judged(surveys, facts=facts, configured=[path for *_, path in named], now=now, say=say)
    csv_files = _each(found, Kind.CSV, facts, csv_file)
    models = _each(found, Kind.MODEL, facts, model_file)
    lines = _each(found, Kind.JSON_LINES, facts, observations)
    redis_files = _each(found, Kind.REDIS, facts, redis_file)
    described, problem = _described(source, facts)
    paths = services.examined(named, databases, walk.roots, ours=[where for where, *_ in configured])
    pack = ProofPack(
        made_at=now,
        host=host(),
        walk=walk,
        databases=databases,
        csv_files=csv_files,
        models=models,
        observations=lines,
        redis_files=redis_files,
        redis=live_redis(redis_url) if redis_url else None,
        env_files=env_files,
        units=units,
        configured=paths,
        source=described,
        suitability=suitability(
            databases=databases,
            csv_files=csv_files,
            models=models,
            observations=lines,
            redis_files=redis_files,
            units=units,
        ),
        reasons=(problem,) if problem else (),
    )
    return Discovery(pack=pack, source_path=source.found.path if source else None)


def with_verdict(pack: ProofPack, quality: Quality | None) -> ProofPack:
    """The pack with what the audit said of the source: READY when it is fit."""
    reasons = [*pack.reasons, *(quality.reasons if quality else ())]
    if quality and quality.problem:
        reasons.append(quality.problem)
    return replace(
        pack, quality=quality, is_ready=quality is not None and quality.is_fit and not reasons, reasons=tuple(reasons)
    )


def _facts(found: Sequence[Found], say: Say) -> dict[Path, FileFacts]:
    """Every file from outside; those of the same size are compared by their bytes."""
    by_size: dict[int, list[Found]] = {}
    for each in found:
        if each.kind in _COMPARED:
            by_size.setdefault(each.size, []).append(each)
    same: dict[Path, Path] = {}
    for size, group in by_size.items():
        if 0 < size <= _MAX_HASHED_BYTES and len(group) > 1:
            same |= dict(_same_bytes(group, say))
    return {
        each.path: FileFacts(
            path=shown(each.path),
            size_bytes=each.size,
            modified_at=_instant(each.modified),
            same_as=shown(same[each.path]) if each.path in same else "",
            links=tuple(shown(link) for link in each.links),
        )
        for each in found
    }


def _instant(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # some file systems keep any 64 bits
        return None


def _same_bytes(group: Sequence[Found], say: Say) -> Iterator[tuple[Path, Path]]:
    firsts: dict[bytes, Path] = {}
    for each in group:
        say(f"comparing {shown(each.path)}")
        try:
            with each.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            continue
        if digest in firsts:
            yield each.path, firsts[digest]
        firsts.setdefault(digest, each.path)


def _services(
    found: Sequence[Found], facts: Facts
) -> tuple[tuple[EnvFile, ...], tuple[Unit, ...], list[tuple[str, str, Path]]]:
    """Env files, units of the stack, and the database paths that these and scripts name."""
    env_files: list[EnvFile] = []
    named: list[tuple[str, str, Path]] = []
    for env, values in _each(found, Kind.ENV, facts, services.env_of):
        env_files.append(env)
        named.extend(services.paths_in(env.file.path, values))
    paths = [env.file.path for env in env_files]
    units = [unit for unit in _each(found, Kind.UNIT, facts, services.unit_of) if services.is_of_the_stack(unit, paths)]
    for unit in units:
        named.extend(services.paths_in(unit.file.path, unit.environment))
    for each in found:
        if each.kind is Kind.SCRIPT:  # programs name files that never were: examples, tests, other hosts
            named.extend(one for one in _or_nothing(services.paths_in_script, each.path) if services.is_there(one[-1]))
    return tuple(env_files), tuple(replace(unit, state=unit_state(Path(unit.file.path))) for unit in units), named


def _each(
    found: Sequence[Found], kind: Kind, facts: Facts, look: Callable[[Path, FileFacts], Thing]
) -> tuple[Thing, ...]:
    """What `look` says of each file of a kind; a file that has gone meanwhile is left out."""
    seen = []
    for each in found:
        if each.kind is kind:
            try:
                seen.append(look(each.path, facts[each.path]))
            except OSError:
                continue
    return tuple(seen)


def _or_nothing(look: Callable[[Path], Iterable[Thing]], path: Path) -> list[Thing]:
    try:
        return list(look(path))
    except OSError:
        return []


def _said(found: Sequence[Found], kinds: Sequence[Kind], say: Say) -> Iterator[Found]:
    for each in found:
        if each.kind in kinds:
            say(f"looking into {shown(each.path)}")
            yield each


def _described(source: Survey | None, facts: Facts) -> tuple[Source | None, str]:
    """The source, or why there is none to describe."""
    if source is None:
        return None, "no database with rows in ai_training_samples was found"
    try:
        return describe(source, facts[source.found.path]), ""
    except (sqlite3.Error, OSError) as error:
        return None, f"{shown(source.found.path)} could not be described: {shown(str(error))}"
