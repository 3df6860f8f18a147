"""The proof pack as values: what was found, without secrets, every text printable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from retrain_worker.domain.audit_findings import Finding


class Role(StrEnum):
    """What a database is for training."""

    SOURCE = "SOURCE"
    #: the rows of the source, or an earlier state of them
    BACKUP = "BACKUP"
    #: training rows that the source does not have
    OTHER_TRAINING = "OTHER ROWS"
    #: no table holds a row, or the file holds no byte
    EMPTY = "EMPTY"
    UNRELATED = "UNRELATED"
    #: damaged, locked, or not a database despite its name
    UNREADABLE = "UNREADABLE"
    #: not read or not compared with the source, because the search was interrupted
    NOT_EXAMINED = "NOT EXAMINED"


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Name, size and time of a file."""

    path: str
    size_bytes: int
    modified_at: datetime | None
    #: the first file found with the same bytes
    same_as: str = ""
    #: symbolic links within the roots that lead to it
    links: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a database; `rows` is None when they could not be counted."""

    name: str
    rows: int | None


@dataclass(frozen=True, kw_only=True)
class TrainingTable:
    """The training table of one database, in short. Times are as stored."""

    rows: int
    labelled: int
    first_at: str = ""
    last_at: str = ""
    newest_labelled_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Database:
    """One SQLite database, or a file with the name of one."""

    file: FileFacts
    role: Role
    #: the reason for the role
    why: str
    tables: tuple[Table, ...] = ()
    training: TrainingTable | None = None


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A CSV file. `rows` is None where they were not counted; the times are those of the first and the last row."""

    file: FileFacts
    columns: tuple[str, ...]
    rows: int | None
    is_candles: bool
    first_at: datetime | None
    last_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Observations:
    """A file of JSON lines."""

    file: FileFacts
    lines: int | None
    keys: tuple[str, ...]
    first_at: datetime | None
    last_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class BinaryFile:
    """A model, a table in a binary format, or a Redis file; `what` comes from its first bytes and listing."""

    file: FileFacts
    what: str


@dataclass(frozen=True, kw_only=True)
class EnvFile:
    """An env file with data paths: their values, secrets masked; of the other settings only the names."""

    file: FileFacts
    values: Mapping[str, str]
    other_names: tuple[str, ...]
    finding: str = ""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A systemd service of the stack. `state` is active, inactive, failed ...; empty where it is unknown."""

    file: FileFacts
    user: str
    working_directory: str
    exec_start: str
    environment_files: tuple[str, ...]
    environment: Mapping[str, str]
    state: str = ""


@dataclass(frozen=True, kw_only=True)
class ConfiguredPath:
    """A database path in a setting or a script, and what is there."""

    where: str
    name: str
    path: str
    finding: str
    is_wrong: bool


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """A mounted file system, in bytes."""

    device: str
    mount_point: str
    kind: str
    size: int
    used: int
    available: int


@dataclass(frozen=True, kw_only=True)
class BlockDevice:
    """A disk (`parent` empty) or a partition, in bytes."""

    name: str
    parent: str
    size: int
    kind: str = ""
    mount_points: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Host:
    """The host and its storage."""

    name: str
    file_systems: tuple[FileSystem, ...]
    block_devices: tuple[BlockDevice, ...]
    #: `path: reason` of what could not be read
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LiveRedis:
    """What a running Redis persists; `problem` when it does not answer."""

    where: str
    settings: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What was searched, and what was not."""

    roots: tuple[str, ...]
    is_one_file_system: bool
    num_files: int
    num_directories: int
    #: `path: reason`
    unreadable: tuple[str, ...] = ()
    num_unreadable: int = 0
    not_entered: tuple[str, ...] = ()
    links_out: tuple[str, ...] = ()
    num_links_out: int = 0
    #: kind of file -> how many more were found than the pack lists
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the source; `finding` is the difference from the expected one, or empty."""

    name: str
    kind: str
    is_nullable: bool
    description: str
    finding: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The training table of the source. Counts by class, symbol, or form of the features, largest first."""

    path: str
    size_bytes: int
    rows: int
    columns: tuple[Column, ...]
    classes: Mapping[str, int]
    first_at: str
    last_at: str
    symbols: Mapping[str, int]
    num_symbols: int
    #: e.g. `array of 4 numbers` -> rows
    features: Mapping[str, int]
    feature_names: tuple[str, ...]
    #: (name, masked value) of one row
    sample: tuple[tuple[str, str], ...]
    sample_note: str = ""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The audit of the source; `problem` when it could not be done."""

    is_fit: bool
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    quarantined: Mapping[str, int] = field(default_factory=dict)
    contradictions: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Suitability:
    """Whether PatchTST can be trained on a kind of data, and why."""

    dataset: str
    kind: str
    purpose: str
    is_suitable: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class ProofPack:
    """Everything that was found."""

    made_at: datetime
    #: the phase in which the search was interrupted; empty: it is complete
    interrupted: str
    host: Host
    walk: Walk
    databases: tuple[Database, ...]
    csv_files: tuple[TextTable, ...]
    models: tuple[BinaryFile, ...]
    observations: tuple[Observations, ...]
    redis_files: tuple[BinaryFile, ...]
    redis: LiveRedis | None
    env_files: tuple[EnvFile, ...]
    units: tuple[Unit, ...]
    configured: tuple[ConfiguredPath, ...]
    source: Source | None
    suitability: tuple[Suitability, ...] = ()
    quality: Quality | None = None
    is_ready: bool = False
    #: why the source is not ready
    reasons: tuple[str, ...] = ()
    #: the next commands, in order
    next_commands: tuple[str, ...] = ()
