"""Where the state is: an SQLite file, or a schema of a PostgreSQL database that several hosts use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from retrain_worker.domain.connection_url import shown

SCHEMA = "retrain_worker"
#: longer names are cut by PostgreSQL
MAX_SCHEMA_BYTES = 63


@dataclass(frozen=True, kw_only=True)
class StatePlace:
    """One state: of one daemon with SQLite, of all hosts with the same STATE_URL and INSTANCE with PostgreSQL."""

    file: Path
    #: in the canonical spelling of domain.database_url; it may hold a password; empty: the file
    url: str = field(default="", repr=False)
    instance: str = ""

    @property
    def schema(self) -> str:
        """The schema of the tables."""
        return f"{SCHEMA}_{self.instance}" if self.instance else SCHEMA

    def __str__(self) -> str:
        """For messages; without a password."""
        return f"{shown(self.url)}, schema {self.schema}" if self.url else str(self.file)
