"""The predictions that a verdict follows from, row by row: `predictions.parquet` in the folder of the run.

The report of the run is drawn from it, and analysts open it (DuckDB: `SELECT part, count(*) FROM 'predictions.parquet'
GROUP BY 1`). Its metadata holds what does not belong to a row: thresholds, prior, distributions of the features,
versions. A later version adds columns and fields with defaults; a changed meaning needs a higher SCHEMA.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from retrain_worker import durable_file, typed_json
from retrain_worker.domain.labels import Label, Thresholds
from retrain_worker.domain.report_request import PREDICTIONS_FILE
from retrain_worker.errors import DataUnfitError, MalformedError
from retrain_worker.worker.data.instants import NEVER
from retrain_worker.worker.data.samples import Samples
from retrain_worker.worker.data.snapshot import Snapshot, load
from retrain_worker.worker.statistics import Floats

SCHEMA = 1
#: `part` of the rows of the holdout; those of the backtest folds are `fold 1` (the newest), `fold 2`, ...
HOLDOUT = "holdout"

_INFO = "retrain_worker.predictions"
_INSTANT = pl.Datetime("us", "UTC")
_BINS = 24
#: values beyond these quantiles of both distributions are counted in the outermost bins
_QUANTILES = (0.005, 0.995)
#: with fewer rows since the last promoted run, all rows of the snapshot are shown
_MIN_NEW_ROWS = 50
_DISTRIBUTIONS = ("retrain-worker", "torch", "numpy", "scipy", "polars")


@dataclass(frozen=True, kw_only=True)
class FeatureDistribution:
    """Rows by value of one feature."""

    name: str
    #: ends of the bins, one more than bins
    edges: tuple[float, ...]
    now: tuple[int, ...]
    #: rows of the last promoted run; empty: there is none, or it does not have this feature
    before: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PredictionsInfo:
    """What does not belong to a row."""

    schema: int = SCHEMA
    label: Label = Label.OUTCOME
    #: P(label = 1) of the training part
    prior: float = 0.5
    candidate_thresholds: Thresholds = field(default_factory=Thresholds)
    incumbent_thresholds: Thresholds = field(default_factory=Thresholds)
    features: tuple[FeatureDistribution, ...] = ()
    #: the run that `before` is of; empty: no run was promoted yet
    reference_run: str = ""
    #: whether `now` counts the rows since that run; False: all rows of the snapshot
    is_new_only: bool = False
    #: package -> version
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The content of the file."""

    #: part, id, symbol, decided_at, known_at, label, pnl, candidate, incumbent; by part, then by time
    rows: pl.DataFrame
    info: PredictionsInfo


def rows_of_part(
    part: str, snapshot: Snapshot, samples: Samples, *, candidate: Floats, incumbent: Floats | None = None
) -> pl.DataFrame:
    """The rows of `samples` with probabilities (N,); one of the incumbent that is NaN is null."""
    positions = samples.positions
    missing = np.full(len(samples), np.nan)
    return pl.DataFrame(
        {
            "part": pl.Series([part], dtype=pl.String).new_from_index(0, len(samples)),
            "id": snapshot.ids[positions],
            "symbol": pl.Series(snapshot.symbols, dtype=pl.String).gather(pl.Series(samples.symbol_codes)),
            "decided_at": pl.Series(samples.decided_at).cast(_INSTANT),
            "known_at": pl.Series(samples.known_at),
            "label": samples.labels,
            "pnl": pl.Series(snapshot.pnl[positions], nan_to_null=True),
            "candidate": candidate,
            "incumbent": pl.Series(missing if incumbent is None else incumbent, dtype=pl.Float64, nan_to_null=True),
        }
    ).with_columns(pl.when(pl.col("known_at") < NEVER).then("known_at").cast(_INSTANT))


def save(predictions: Predictions, run_dir: Path) -> None:
    """Write `run_dir/predictions.parquet`, replacing what is there, all or nothing. Raises DiskFullError."""
    metadata = {_INFO: msgspec.json.encode(predictions.info).decode()}
    with durable_file.replacing(run_dir / PREDICTIONS_FILE) as file:
        predictions.rows.write_parquet(file, compression="zstd", metadata=metadata)


def read(run_dir: Path) -> Predictions:
    """The saved predictions. Raises DataUnfitError when they are missing, damaged, or of a later version."""
    path = run_dir / PREDICTIONS_FILE
    try:
        info = typed_json.decode(pl.read_parquet_metadata(path)[_INFO], PredictionsInfo)
        rows = pl.read_parquet(path)
    except (OSError, ValueError, KeyError, MalformedError, pl.exceptions.PolarsError) as error:
        cause = "there are none" if isinstance(error, FileNotFoundError) else str(error).partition("\n")[0]
        raise DataUnfitError(f"the stored predictions cannot be read: {cause}", where=str(path)) from error
    if info.schema > SCHEMA:
        raise DataUnfitError(f"schema {info.schema}, this version reads up to {SCHEMA}", where=str(path))
    return Predictions(rows=rows, info=info)


def distributions(snapshot: Snapshot, reference_dir: Path | None) -> PredictionsInfo:
    """The distributions of the features beside those of the run in `reference_dir`; None, and unreadable: alone."""
    reference = None
    if reference_dir is not None:
        try:
            reference = load(reference_dir)
        except DataUnfitError:  # the audit has reported it
            reference = None
    if reference is None or not len(reference):
        return PredictionsInfo(features=tuple(_features(snapshot.features, snapshot.feature_names, None)))
    is_new = snapshot.decided_at > int(reference.decided_at.max())
    is_new_only = int(is_new.sum()) >= _MIN_NEW_ROWS
    now = snapshot.features[is_new] if is_new_only else snapshot.features
    return PredictionsInfo(
        features=tuple(_features(now, snapshot.feature_names, reference)),
        reference_run=reference_dir.name if reference_dir else "",
        is_new_only=is_new_only,
    )


def versions() -> dict[str, str]:
    """Python and the packages that a model depends on."""
    return {"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}}


def _features(
    now: np.ndarray[tuple[int, ...], np.dtype[np.float32]], names: tuple[str, ...], reference: Snapshot | None
) -> Iterator[FeatureDistribution]:
    for place, name in enumerate(names):
        ours = now[:, place].astype(np.float64)
        known = reference is not None and name in reference.feature_names
        theirs = (
            reference.features[:, reference.feature_names.index(name)].astype(np.float64)
            if reference is not None and known
            else np.empty(0)
        )
        low, high = np.quantile(np.concatenate([ours, theirs]), _QUANTILES)
        edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
        yield FeatureDistribution(
            name=name,
            edges=tuple(edges.tolist()),
            now=_counts(ours, edges),
            before=_counts(theirs, edges) if known else (),
        )


def _counts(values: Floats, edges: Floats) -> tuple[int, ...]:
    found, _edges = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return tuple(int(number) for number in found)
