"""Searches a host for training data: walk, read each file found, choose the source, compare what points elsewhere."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from retrain_worker.discovery import configured_paths, services
from retrain_worker.discovery.binary_files import model_file, redis_file
from retrain_worker.discovery.configured_paths import PathSetting
from retrain_worker.discovery.databases import NOT_READ, Comparison, Survey, compare, role_of, source_of, survey
from retrain_worker.discovery.directory_walk import DirectoryWalk, Found, distinct_roots
from retrain_worker.discovery.file_classification import DATABASE_SUFFIXES, Kind
from retrain_worker.discovery.host_state import host, live_redis, unit_states
from retrain_worker.discovery.progress import Progress, Stopped
from retrain_worker.discovery.proof_pack import (
    BinaryFile,
    Database,
    EnvFile,
    FileFacts,
    Observations,
    ProofPack,
    Quality,
    Role,
    Source,
    TextTable,
    Unit,
)
from retrain_worker.discovery.text_files import csv_file, observations
from retrain_worker.discovery.training_suitability import suitability
from retrain_worker.discovery.training_table import describe
from retrain_worker.domain.printable import printable

#: larger files are not compared byte by byte
_MAX_COMPARED_BYTES = 1 << 30
_SAMPLE_BYTES = 1 << 16
_DATABASES = (Kind.SQLITE, Kind.NO_DATABASE)
_COMPARED = (Kind.SQLITE, Kind.CSV, Kind.MODEL, Kind.JSON_LINES, Kind.REDIS)
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
    configured: Sequence[PathSetting],
    redis_url: str,
    now: datetime,
    progress: Progress,
) -> Discovery:
    """Search `roots`. `configured`: each database that the settings of this program name.

    A stopped search gives a pack of what was found until then. Raises UsageError when a root is not a directory; every
    other failure is a finding in the pack.
    """
    walk = DirectoryWalk(roots=distinct_roots(roots), cross_file_systems=cross_file_systems, progress=progress)
    search = _Search(walk=walk, progress=progress, settings=list(configured), now=now)
    interrupted = ""
    try:
        search.run()
    except Stopped as stopped:
        interrupted = str(stopped)
        search.choose_source()
    databases = tuple(search.databases())
    pack = ProofPack(
        made_at=now,
        interrupted=interrupted,
        host=host(),
        walk=replace(walk.walked(), left_out=search.left_out()),
        databases=databases,
        csv_files=tuple(search.csv_files),
        models=tuple(search.models),
        observations=tuple(search.observations),
        redis_files=tuple(search.redis_files),
        redis=live_redis(redis_url) if redis_url and not interrupted else None,
        env_files=tuple(search.env_files),
        units=tuple(search.units),
        configured=configured_paths.compared(
            search.settings,
            databases,
            [str(root) for root in walk.roots],
            own={setting.where for setting in configured},
        ),
        source=search.description,
        reasons=(search.source_problem,) if search.source_problem else (),
    )
    pack = replace(pack, suitability=suitability(pack))
    return Discovery(pack=pack, source_path=search.source.found.path if search.source else None)


def with_verdict(pack: ProofPack, quality: Quality | None, *, interrupted: str = "") -> ProofPack:
    """The pack with the audit of the source: READY when it is fit and no phase was `interrupted`."""
    reasons = [f"the search was interrupted ({interrupted}): this pack is incomplete"] if interrupted else []
    reasons += [*pack.reasons, *(quality.reasons if quality else ())]
    if quality and quality.problem:
        reasons.append(quality.problem)
    is_ready = quality is not None and quality.is_fit and not reasons
    return replace(pack, interrupted=interrupted, quality=quality, is_ready=is_ready, reasons=tuple(reasons))


@dataclass(kw_only=True)
class _Search:
    """The phases of a search, and what each has found so far."""

    walk: DirectoryWalk
    progress: Progress
    settings: list[PathSetting]
    now: datetime
    files: list[Found] = field(default_factory=list)
    surveys: list[Survey] = field(default_factory=list)
    source: Survey | None = None
    source_problem: str = ""
    description: Source | None = None
    comparisons: dict[Path, Comparison | str] = field(default_factory=dict)
    env_files: list[EnvFile] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    csv_files: list[TextTable] = field(default_factory=list)
    models: list[BinaryFile] = field(default_factory=list)
    observations: list[Observations] = field(default_factory=list)
    redis_files: list[BinaryFile] = field(default_factory=list)
    _same_as: dict[Path, Path] = field(default_factory=dict)
    #: files that could not be read any more after the walk
    _deleted: Counter[Kind] = field(default_factory=Counter)

    def run(self) -> None:
        """All phases, the most important first. Raises Stopped."""
        try:
            self.walk.run()
        finally:
            self.files = self.walk.found()
        self._read_services()
        for found in self._steps("reading databases", *_DATABASES):
            seen = survey(found, self.progress)
            if not self.progress.is_stopped():
                self.surveys.append(seen)
        self.choose_source()
        if self.source is not None:
            self._describe_source(self.source)
            self._compare_with(self.source)
        self._find_copies()
        self._describe("reading CSV files", Kind.CSV, csv_file, self.csv_files)
        self._describe("reading models", Kind.MODEL, model_file, self.models)
        self._describe("reading observations", Kind.JSON_LINES, observations, self.observations)
        self._describe("reading Redis files", Kind.REDIS, redis_file, self.redis_files)
        self.progress.check()

    def choose_source(self) -> None:
        """Choose the source from the databases that were read."""
        self.source = source_of(self.surveys, [setting.path for setting in self.settings], self.now)
        if self.source is None:
            self.source_problem = "no database with rows in ai_training_samples was found"

    def databases(self) -> Iterator[Database]:
        """Every database with its role, the source first; those that were not read, too."""
        surveys = {each.found.path: each for each in self.surveys}
        order = list(Role)
        databases = []
        for found in self.files:
            if found.kind in _DATABASES:
                each = surveys.get(found.path, Survey(found=found))
                is_read = found.path in surveys
                role, why = role_of(each, self.source, self.comparisons.get(found.path)) if is_read else NOT_READ
                file = self._facts(found)
                databases.append(Database(file=file, role=role, why=why, tables=each.tables, training=each.training))
        yield from sorted(databases, key=lambda one: (order.index(one.role), one.file.path))

    def left_out(self) -> dict[str, int]:
        """Kind of file -> how many more there are than the pack lists."""
        listed = {
            Kind.ENV: len(self.env_files),
            Kind.CSV: len(self.csv_files),
            Kind.MODEL: len(self.models),
            Kind.JSON_LINES: len(self.observations),
            Kind.REDIS: len(self.redis_files),
        }
        found = Counter(each.kind for each in self.files) - self._deleted
        more = {
            kind: number - self._deleted[kind] - listed.get(kind, found[kind])
            for kind, number in self.walk.num_found.items()
        }
        return {str(kind): number for kind, number in more.items() if number}

    def _read_services(self) -> None:
        """Env files, units of the stack, and the database paths that these and scripts name."""
        env_files: list[tuple[EnvFile, Mapping[str, str]]] = []
        units: list[Unit] = []
        self._describe("reading env files", Kind.ENV, services.env_of, env_files)
        for env, values in env_files:
            self.env_files.append(env)
            self.settings.extend(configured_paths.in_values(env.file.path, values))
        self._describe("reading units", Kind.UNIT, services.unit_of, units)
        paths = [env.file.path for env in self.env_files]
        units = [unit for unit in units if services.is_of_the_stack(unit, paths)]
        states = unit_states([Path(unit.file.path) for unit in units])
        for unit in units:
            self.units.append(replace(unit, state=states.get(Path(unit.file.path), "")))
            self.settings.extend(configured_paths.in_values(unit.file.path, unit.environment))
            arguments = [word.rpartition("=")[2] for word in unit.exec_start.split()]
            for argument in arguments:
                if argument.endswith(DATABASE_SUFFIXES):
                    self.settings.extend(configured_paths.in_values(unit.file.path, {"ExecStart": argument}))
        for found in self._steps("reading scripts", Kind.SCRIPT):
            try:
                self.settings.extend(configured_paths.in_script(found.path))
            except OSError:  # deleted since the walk
                continue

    def _describe_source(self, source: Survey) -> None:
        path = printable(source.found.path)
        self.progress.step("describing the source", 0, 1, path)
        try:
            self.description = describe(source, self._facts(source.found), self.progress)
        except (sqlite3.Error, OSError) as error:
            self.source_problem = f"{path} could not be described: {printable(error)}"

    def _compare_with(self, source: Survey) -> None:
        others = [each for each in self.surveys if each.training and each.training.rows and each is not source]
        for done, each in enumerate(others):
            self.progress.step("comparing databases", done, len(others), each.found.path)
            self.comparisons[each.found.path] = compare(each, source, self.progress)

    def _find_copies(self) -> None:
        """Files with equal bytes: of the same size, then with equal samples, then with equal hashes."""
        by_size: dict[int, list[Found]] = defaultdict(list)
        for each in self.files:
            if each.kind in _COMPARED and 0 < each.size <= _MAX_COMPARED_BYTES:
                by_size[each.size].append(each)
        groups = [group for group in by_size.values() if len(group) > 1]
        for done, group in enumerate(groups):
            for alike in self._groups(group, _sample, done, len(groups)):
                for same in self._groups(alike, _sha256, done, len(groups)):
                    self._same_as |= {each.path: same[0].path for each in same[1:]}

    def _groups(
        self, files: Sequence[Found], digest: Callable[[Path], bytes], done: int, total: int
    ) -> list[list[Found]]:
        """The files with the same digest, where there are several."""
        groups: dict[bytes, list[Found]] = defaultdict(list)
        for each in files:
            self.progress.step("comparing files", done, total, each.path)
            try:
                groups[digest(each.path)].append(each)
            except OSError:  # deleted since the walk
                continue
        return [group for group in groups.values() if len(group) > 1]

    def _describe(
        self, phase: str, kind: Kind, description: Callable[[Path, FileFacts], Thing], found: list[Thing]
    ) -> None:
        """Append the description of each file of a kind; a file that was deleted since the walk is left out."""
        for each in self._steps(phase, kind):
            try:
                found.append(description(each.path, self._facts(each)))
            except OSError:
                self._deleted[kind] += 1

    def _steps(self, phase: str, *kinds: Kind) -> Iterator[Found]:
        files = [each for each in self.files if each.kind in kinds]
        for done, each in enumerate(files):
            self.progress.step(phase, done, len(files), each.path)
            yield each

    def _facts(self, found: Found) -> FileFacts:
        return FileFacts(
            path=printable(found.path),
            size_bytes=found.size,
            modified_at=_instant(found.modified),
            same_as=printable(self._same_as.get(found.path, "")),
            links=tuple(map(printable, found.links)),
        )


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _sample(path: Path) -> bytes:
    """The first, the middle and the last bytes."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        parts = []
        for offset in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            file.seek(offset)
            parts.append(file.read(_SAMPLE_BYTES))
    return hashlib.sha256(b"".join(parts)).digest()


def _instant(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # some file systems store any 64 bits
        return None
