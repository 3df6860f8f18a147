"""The files that a task reads and writes, for its confinement."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from retrain_worker import remote_files
from retrain_worker.domain.artifact import checksum_file, manifest_file, signature_file
from retrain_worker.domain.mlflow_request import MlflowRequest
from retrain_worker.domain.report_request import PREDICTIONS_FILE, ReportRequest
from retrain_worker.domain.upload_request import UploadRequest, is_of_object_store
from retrain_worker.domain.worker_protocol import (
    AuditRequest,
    ExportRequest,
    GateRequest,
    InspectRequest,
    PullRequest,
    TrainRequest,
    TrialEvaluationRequest,
    VerifyRequest,
)
from retrain_worker.errors import SourceUnfitError

#: the version that reads, in the header of an SQLite file: 2 is WAL
_WAL_BYTE, _WAL = 19, b"\x02"
#: parameters of libpq that name files
_LIBPQ_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile", "servicefile")
#: between two processes of a host NCCL uses files in shared memory
_GPU, _SHARED_MEMORY = Path("/dev/nvidiactl"), Path("/dev/shm")  # noqa: S108 - not a file of this program
_LIBPQ_FOLDERS = ("~/.pgpass", "~/.pg_service.conf", "~/.postgresql", "/etc/postgresql-common")


@dataclass(frozen=True, kw_only=True)
class TaskPaths:
    """Files and folders; those that do not exist are allowed nothing."""

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]


def paths_of(request: object, run_dir: Path, *, url: str, has_peers: bool = False) -> TaskPaths:
    """What the task of `request` reads and writes, whose result goes to `run_dir`. Makes the folder of checkpoints.

    `has_peers`: it is one of several processes of a training.
    """
    readable, writable = list(_read_by(request)), [run_dir]
    match request:
        case TrainRequest():
            writable.append(Path(request.checkpoint_dir))
            writable[-1].mkdir(parents=True, exist_ok=True)
            if request.folds_dir:
                writable.append(Path(request.folds_dir))
            if has_peers and _GPU.exists():
                writable.append(_SHARED_MEMORY)
        case ExportRequest():
            writable.append(Path(request.output_path).parent)
        case ReportRequest():
            writable += {Path(path).parent for path in request.output_paths}
        case PullRequest() | TrialEvaluationRequest():
            of_database = _of_database(url, run_dir)
            readable += of_database.readable
            writable += of_database.writable
        case UploadRequest(models_url=models_url):
            readable += _of_object_stores()
            if (folder := remote_files.local_path(models_url)) is not None:
                writable.append(folder)
        case MlflowRequest():
            if url.startswith("file:"):
                writable.append(Path(urlsplit(url).path))
                writable[-1].mkdir(parents=True, exist_ok=True)
    if "COVERAGE_FILE" in os.environ:  # which lines the tests have run
        writable.append(Path(os.environ["COVERAGE_FILE"]).parent)
    return TaskPaths(readable=tuple(readable), writable=tuple(writable))


def _read_by(request: object) -> Iterator[Path]:  # noqa: PLR0912 - one branch for each task
    models: tuple[str | None, ...] = ()
    match request:
        case PullRequest(watermark_path=str(watermark)):
            yield from Path(watermark).parent.glob("snapshot*")
        case AuditRequest(reference_dir=str(reference)):
            yield from Path(reference).glob("snapshot*")
        case TrainRequest():
            models = (request.incumbent_path,)
        case GateRequest():
            models = (request.candidate_path, request.incumbent_path)
            if request.reference_dir:
                yield from Path(request.reference_dir).glob("snapshot*")
        case TrialEvaluationRequest():
            models = (request.model_path, request.reference_path)
        case VerifyRequest() | ExportRequest():
            models = (request.model_path,)
        case ReportRequest():
            yield from (Path(folder) / PREDICTIONS_FILE for folder in request.run_dirs)
        case MlflowRequest():
            yield Path(request.report_path)
            models = (request.run.facts.promote.model_path if request.run.facts.promote else None,)
        case UploadRequest():
            models = tuple(path for path, _ in request.models)
        case InspectRequest():
            models = tuple(os.fsdecode(path) for path in request.paths)
    for model in models:
        if model:
            yield from (file_of(Path(model)) for file_of in (Path, checksum_file, manifest_file, signature_file))


def _of_object_stores() -> Iterator[Path]:
    """Where their libraries look for credentials: folders of the user, and files that the environment names."""
    yield from (Path(folder).expanduser() for folder in ("~/.aws", "~/.config/gcloud", "~/.config/fsspec"))
    named = (value for name, value in os.environ.items() if is_of_object_store(name))
    yield from (Path(value) for value in named if value.startswith("/"))


def _of_database(database_url: str, run_dir: Path) -> TaskPaths:
    from retrain_worker.worker.data.source import parse_url

    with suppress(SourceUnfitError):  # the stage reports it
        url = parse_url(database_url)
        if url.get_backend_name() == "postgresql":
            return TaskPaths(readable=tuple(_files_of_libpq(url.query)), writable=())
        if url.database:
            return _of_sqlite(Path(url.database).resolve(), run_dir)
    return TaskPaths(readable=(), writable=())


def _of_sqlite(path: Path, run_dir: Path) -> TaskPaths:
    """A reader of a database in WAL mode writes to its -shm file.

    Where a writer has the database open, that file is there. Elsewhere a writer or this process may make it, so that
    the folder must be writable; but never a folder that holds this program's own files (--home beside the database).
    """
    wal, shm, journal = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))
    if not _is_wal(path) or (wal.exists() and shm.exists()) or path.parent in run_dir.resolve().parents:
        return TaskPaths(readable=(path, wal, journal), writable=(shm,))
    return TaskPaths(readable=(path,), writable=(path.parent,))


def _is_wal(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return path.is_file() and file.read(_WAL_BYTE + 1)[_WAL_BYTE:] == _WAL
    return False


def _files_of_libpq(parameters: Mapping[str, str | tuple[str, ...]]) -> Iterator[Path]:
    named = [str(parameters[name]) for name in _LIBPQ_FILES if name in parameters]
    named += [value for name, value in os.environ.items() if name.startswith("PG") and "/" in value]
    yield from (Path(path).expanduser() for path in (*_LIBPQ_FOLDERS, *named) if path.startswith(("/", "~")))
