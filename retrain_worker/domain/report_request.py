"""The request to a worker to write pages: of one run, of two runs side by side, of all runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from retrain_worker.domain.lifecycle import Deployment, Outcome, Run

#: in the folder of a run: the predictions that its verdict follows from
PREDICTIONS_FILE = "predictions.parquet"


@dataclass(frozen=True, kw_only=True)
class EngineTraffic:
    """The answers of one model in an engine that answered during the swap."""

    answered: int = 0
    failed: int = 0
    slowest_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The page of one run."""

    run: Run
    #: the folder of the run, whose stored predictions are drawn; it need not exist
    run_dir: str
    output_path: str
    #: whether it is the page in the folder of the run, which has links to its neighbours, and a CSV file beside it
    is_in_site: bool = False
    #: the run before it that was judged, which the page `compare.html` compares it with; empty: there is none
    previous_run_id: str = ""
    #: the Bayes-optimal AUC on the holdout, where it is known
    bayes_auc: float | None = None
    #: name -> value of the promotion as a consumer received it
    event: Mapping[str, str] = field(default_factory=dict)
    #: version -> its answers
    engine: Mapping[str, EngineTraffic] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """Two runs side by side, the earlier one first."""

    runs: tuple[Run, Run]
    run_dirs: tuple[str, str]
    output_path: str
    is_in_site: bool = False


@dataclass(frozen=True, kw_only=True)
class IndexedRun:
    """A run in the index: what its line and the charts show."""

    run_id: str
    created_at: datetime
    outcome: Outcome | None
    #: what is due, for a run without an outcome
    stage: str
    reason: str = ""
    #: labelled rows, and those of them that were new
    rows: int | None = None
    new_rows: int | None = None
    newest_row_at: datetime | None = None
    auc: float | None = None
    log_loss: float | None = None
    prior_log_loss: float | None = None
    incumbent_auc: float | None = None
    incumbent_log_loss: float | None = None
    #: gates that count and were failed, or could not be decided
    failed_gates: tuple[str, ...] = ()
    seconds: float | None = None
    has_page: bool = False
    #: whether the page that compares it with the judged run before it exists
    has_comparison: bool = False


@dataclass(frozen=True, kw_only=True)
class IndexPage:
    """All runs that have a folder."""

    #: newest first
    runs: tuple[IndexedRun, ...]
    #: those that reached the engine's slot, oldest first
    deployments: tuple[Deployment, ...]
    at: datetime
    output_path: str


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Write these pages, in this order."""

    runs: tuple[RunPage, ...] = ()
    comparisons: tuple[ComparisonPage, ...] = ()
    index: IndexPage | None = None

    @property
    def output_paths(self) -> tuple[str, ...]:
        """The pages that it writes."""
        pages = (*self.runs, *self.comparisons, *((self.index,) if self.index else ()))
        return tuple(page.output_path for page in pages)

    @property
    def run_dirs(self) -> tuple[str, ...]:
        """The folders of runs whose predictions it reads."""
        return (
            *(page.run_dir for page in self.runs),
            *(folder for page in self.comparisons for folder in page.run_dirs),
        )


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """The pages are written."""

    output_paths: tuple[str, ...]
