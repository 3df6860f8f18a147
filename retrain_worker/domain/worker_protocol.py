"""The request and the result that cross to a worker, its progress lines, and its exit codes.

One worker per stage or one-off task: `python -m retrain_worker.worker REQUEST RESULT`. The request is a JSON file in
the run folder, the result another, written atomically as its last act. Progress goes to the worker's stdout, one JSON
object per line; its log goes to stderr. The worker ends when its stdin closes: the daemon holds the other end. A
database URL may hold a password, so it is in no file, environment or command line: the first line on the stdin of a
worker that reads the database is a `DatabaseAccess`, JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from retrain_worker.domain.artifact import Manifest, ModelContract
from retrain_worker.domain.audit_findings import AuditVerdict
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import Evidence, GatePolicy
from retrain_worker.domain.lifecycle import WAITING, Stage
from retrain_worker.domain.recipe import Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.trial_evaluation import TrialEvaluation
from retrain_worker.errors import RetrainError

#: the name of a feature that a model file does not name
UNNAMED = "?"


class WorkerExit(IntEnum):
    """What the worker's exit status means. Anything else is a crash."""

    #: the result file holds a result
    DONE = 0
    #: the result file holds a RetrainError: its kind, what, where, remedy
    ERROR = 3
    #: stopped by SIGTERM or by a closed stdin; what can be resumed was checkpointed
    INTERRUPTED = 4


class OneOffTask(StrEnum):
    """A task of a worker outside any run."""

    #: inspect a model file
    INSPECT = "INSPECT"
    #: write a model file in the format of another runtime
    EXPORT = "EXPORT"
    #: load a model file as an engine would, for an operator's slot request
    VERIFY = "VERIFY"
    #: write pages of runs (domain/report_request.py)
    REPORT = "REPORT"
    #: log a run to an MLflow server
    MLFLOW = "MLFLOW"
    #: copy models to MODELS_URL (domain/upload_request.py)
    UPLOAD = "UPLOAD"


#: the stages whose worker reads the trading database
READS_DATABASE = frozenset({Stage.PULL, *WAITING})
#: the tasks whose worker gets a URL (DatabaseAccess); that of UPLOAD is empty and comes with credentials
GETS_URL = READS_DATABASE | {OneOffTask.MLFLOW, OneOffTask.UPLOAD}


class ExportFormat(StrEnum):
    """What other runtimes read."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, kw_only=True)
class DatabaseAccess:
    """How a worker opens the trading database, or the MLflow server."""

    #: as the file system encodes it: the path of a file need not be UTF-8
    url: bytes = field(repr=False)
    #: PGPASSWORD, where that is set; credentials of an object store
    environment: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """Freeze the rows of the training window into `run_dir/snapshot`."""

    run_id: str
    run_dir: str
    policy: DataPolicy
    #: the watermark of the last committed run, or None: every labelled row is new
    watermark_path: str | None
    #: ISO 8601 UTC; rows more than a day after it are quarantined
    now: str
    busy_timeout_seconds: float = 30.0
    #: private memory in bytes, here and in every request; 0 = no limit
    memory_limit_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class PullResult:
    """What the snapshot holds."""

    #: rows read from the table
    loaded: int
    #: rows in the snapshot with a usable label
    labelled: int
    win: int
    loss: int
    neutral: int
    open: int
    #: labelled rows that the watermark has not seen
    new_labelled: int
    #: reason -> rows left out
    quarantined: Mapping[str, int]
    #: rows whose class contradicts the sign of realized_pnl
    contradictions: int
    symbols: Mapping[str, int]
    feature_names: tuple[str, ...]
    #: ISO 8601 UTC, decision times of the first and last row
    first_at: str | None
    last_at: str | None
    #: sha256 over the usable rows; equal rows give the equal hash
    data_sha256: str
    #: the snapshot: the watermark once the run is committed
    watermark_path: str


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """Measure the snapshot against the policy."""

    run_id: str
    run_dir: str
    policy: DataPolicy
    #: ISO 8601 UTC; the audit's idea of now (staleness, rows from the future)
    now: str
    #: the folder of the last promoted run, which drift is measured against; None = no run was promoted
    reference_dir: str | None = None
    #: the features that the engine takes; empty where its contract is not known
    engine_features: tuple[str, ...] = ()
    split: SplitPolicy = field(default_factory=SplitPolicy)
    #: rows per window of the candidate; None: they are those of an incumbent whose contract is not known
    seq_len: int | None = None
    memory_limit_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """The findings, judged."""

    verdict: AuditVerdict


@dataclass(frozen=True, kw_only=True)
class EmptySlot:
    """What is known of an engine whose slot names no model; it counts with PRESET=auto only."""

    #: the last contract that is known to have been in the slot
    contract: ModelContract | None = None
    #: without a known contract: True: the contract gate is UNDECIDED; False: any contract fits
    is_contract_required: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Train a candidate on the snapshot and write its bundle into `run_dir/candidate`."""

    run_id: str
    run_dir: str
    version: str
    data: DataPolicy
    split: SplitPolicy
    recipe: Recipe
    #: where the state to resume is kept
    checkpoint_dir: str
    #: the model file that serves now, or None: its contract decides PRESET=auto
    incumbent_path: str | None
    empty_slot: EmptySlot = EmptySlot()
    #: where the predictions on backtest folds are kept from run to run; empty: in `checkpoint_dir`
    folds_dir: str = ""
    memory_limit_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The candidate, written and verified in a fresh load."""

    model_path: str
    manifest: Manifest
    epochs: int
    best_epoch: int
    final_loss: float
    validation_log_loss: float
    #: rows of each part before and after balancing: {"train": {"win": .., "loss": ..}, "train_balanced": {..}, ...}
    parts: Mapping[str, Mapping[str, int]]
    #: samples that no part took, by reason (purged, embargo, ...)
    left_out: Mapping[str, int]
    #: (epoch, train loss, validation log loss, validation AUC)
    history: tuple[tuple[int, float, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """Measure candidate and incumbent on the holdout of the snapshot."""

    run_id: str
    run_dir: str
    candidate_path: str
    incumbent_path: str | None
    data: DataPolicy
    split: SplitPolicy
    recipe: Recipe
    policy: GatePolicy
    empty_slot: EmptySlot = EmptySlot()
    #: the folder of the last promoted run, whose features the report compares with; None = no run was promoted
    reference_dir: str | None = None
    memory_limit_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class GateMeasured:
    """The evidence; the domain decides on it."""

    evidence: Evidence
    #: what the engine runs; None: not known
    engine_contract: ModelContract | None = None


@dataclass(frozen=True, kw_only=True)
class TrialEvaluationRequest:
    """One evaluation of a shadow trial or a probation: read the table, record predictions, join outcomes, measure."""

    run_id: str
    run_dir: str
    #: counts the evaluations, so that each is a new request
    number: int
    model_path: str
    #: what it is compared with, or None
    reference_path: str | None
    #: ISO 8601 UTC; only rows decided after it count
    since: str
    #: the folder of the snapshot that the model was trained and judged on: its rows never count; None: not known
    snapshot_dir: str | None = None
    #: names the prediction log: another stage or another reference begins another
    prediction_log: str
    #: ISO 8601 UTC
    now: str
    data: DataPolicy
    policy: GatePolicy
    #: P(label = 1) of the training part
    prior: float
    #: error probability of the bound on "worse than the reference"
    worse_alpha: float
    threads: int = 1
    busy_timeout_seconds: float = 30.0
    memory_limit_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TrialEvaluationResult:
    """What the evaluation measured; the domain decides on it."""

    evaluation: TrialEvaluation


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """Load a model file as an engine would, and replay its canary."""

    #: so that every order asks anew
    request_id: str
    model_path: str
    #: None: its checksum file decides, if there is one
    expected_sha256: str | None
    memory_limit_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """The model file is sound."""

    sha256: str
    #: largest difference between the recorded and the replayed canary; None for a file that has none
    canary_error: float | None


@dataclass(frozen=True, kw_only=True)
class InspectRequest:
    """Inspect these files. Nothing in them is executed."""

    #: as the file system stores them, which need not be UTF-8
    paths: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What one file is."""

    path: str
    #: a few words: "model file, format patchtst/1.1", "bare state dict", "SQLite database", ...
    kind: str
    #: why it must not be trusted as a model; empty = it can be
    problem: str
    size_bytes: int | None = None
    sha256: str = ""
    #: the checksum file beside it: agrees | differs | none
    checksum: str = "none"
    parameters: int | None = None
    #: largest difference between the recorded and the replayed canary; None without a canary
    canary_error: float | None = None
    #: None: not a model that this program can run
    manifest: Manifest | None = None
    #: name -> shape of the tensors found
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    #: global names in its pickle that a safe load refuses
    refused_globals: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InspectResult:
    """One report for each path, in the order of the request."""

    reports: tuple[FileReport, ...]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Write the model in `model_path` as `format` to `output_path`, which must not exist."""

    model_path: str
    format: ExportFormat
    output_path: str


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A file that gave the recorded answers when it was read back."""

    output_path: str
    size_bytes: int
    sha256: str
    #: largest difference to the recorded canary, over this many windows
    canary_error: float
    canary_windows: int


@dataclass(frozen=True, kw_only=True)
class WorkerError:
    """A RetrainError on its way back to the daemon."""

    kind: str
    what: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line of the worker's stdout. `message` is what STATUS= shows."""

    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: the part of the stage that is done, and the seconds that the rest will take; None: not known
    share: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Working:
    """The worker is at work."""

    message: str
    share: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """The worker has left a result: the dataclass above that belongs to the stage."""

    result: Any


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The worker ended without a result, or with an error; `error` is that error."""

    error: RetrainError
