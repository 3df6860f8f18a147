"""The frozen rows of one run: arrays in canonical order, their content hash, and their files.

Canonical order is (symbol, decided_at, id), symbols as they are written. The hash covers what training and gates see,
with features in the order of their names: the same rows give the same hash whatever their physical order, whether
their features were arrays or objects, and in whichever order the names stood.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from retrain_worker import durable_file, typed_json
from retrain_worker.errors import DataUnfitError

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Float64s = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]

_FOLDER = "snapshot"
_INDEX = "snapshot.json"


@dataclass(frozen=True, kw_only=True)
class PullFacts:
    """What the pull saw on the way to the rows: the audit's raw material."""

    #: rows read from the table
    loaded: int = 0
    #: rows read that lie before the training window
    before_window: int = 0
    #: start of the training window, microseconds; None = every row is inside
    window_start: int | None = None
    #: reason -> rows left out
    quarantined: Mapping[str, int] = field(default_factory=dict)
    #: a few of them, `id 17 features_not_json`, lowest ids first
    quarantined_examples: tuple[str, ...] = ()
    #: thing noticed -> rows that are in the snapshot all the same
    noted: Mapping[str, int] = field(default_factory=dict)
    #: class that is none of WIN, LOSS, NEUTRAL (as ascii()) -> rows
    unknown_classes: Mapping[str, int] = field(default_factory=dict)
    #: feature name that is not trained on -> rows that have it
    features_left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Rows sorted by (symbol, decided_at, id). Arrays may be memory-mapped: read-only."""

    #: int64[N]
    ids: Int64s
    #: int32[N], index into `symbols`
    symbol_codes: Int32s
    #: sorted
    symbols: tuple[str, ...]
    #: int64[N], microseconds since the epoch, UTC
    decided_at: Int64s
    #: int64[N], when the outcome was known: exit_time, else updated_at, else decided_at + hold_duration_seconds, never
    #: before decided_at; int64's maximum = never
    known_at: Int64s
    #: float32[N, F], all finite
    features: Float32s
    feature_names: tuple[str, ...]
    #: int8[N], 1 WIN, 0 LOSS, 2 NEUTRAL, -1 open or not usable as a label: what may be trained on
    outcome: Int8s
    #: int8[N], the same as the table has it, before the rules for contradictions and conflicting copies
    recorded_outcome: Int8s
    #: int8[N], 1 BUY, -1 SELL, 0 none: execution_side, else predicted_action
    side: Int8s
    #: int8[N], 1 BUY, -1 SELL, 0 HOLD, -128 unknown: predicted_action
    action: Int8s
    #: float32[N], as recorded; NaN = not a number
    confidence: Float32s
    #: float64[N], realized_pnl; NaN = none
    pnl: Float64s
    #: float32[N], NaN = none
    target_label: Float32s
    #: float32[N], exit_price / entry_price - 1; NaN = unknown
    price_move: Float32s
    data_sha256: str
    facts: PullFacts

    def __len__(self) -> int:
        return len(self.ids)


ARRAYS: tuple[str, ...] = tuple(
    name
    for name in (each.name for each in fields(Snapshot))
    if name not in ("symbols", "feature_names", "data_sha256", "facts")
)


def content_hash(arrays: Mapping[str, npt.NDArray[Any]], *, symbols: tuple[str, ...], names: tuple[str, ...]) -> str:
    """sha256 over rows in canonical order; `arrays` holds every name of ARRAYS."""
    by_name = sorted(range(len(names)), key=names.__getitem__)
    head = {"symbols": symbols, "names": [names[place] for place in by_name], "rows": len(arrays["ids"])}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name in ARRAYS:
        columns = [arrays[name]] if name != "features" else [arrays[name][:, place] for place in by_name]
        for values in columns:
            digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def save(snapshot: Snapshot, run_dir: Path) -> None:
    """Write `run_dir/snapshot/`, replacing what is there, all or nothing. Raises DiskFullError."""
    with durable_file.replacing_folder(run_dir / _FOLDER) as folder:
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(snapshot, name), allow_pickle=False)
        index = {
            "symbols": snapshot.symbols,
            "feature_names": snapshot.feature_names,
            "rows": len(snapshot),
            "data_sha256": snapshot.data_sha256,
            "facts": snapshot.facts,
        }
        (folder / _INDEX).write_bytes(msgspec.json.encode(index))


def load(run_dir: Path) -> Snapshot:
    """The saved snapshot, its arrays memory-mapped. Raises DataUnfitError when it is missing or damaged."""
    folder = run_dir / _FOLDER
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        snapshot = Snapshot(
            symbols=tuple(index["symbols"]),
            feature_names=tuple(index["feature_names"]),
            data_sha256=index["data_sha256"],
            facts=typed_json.convert(index["facts"], PullFacts),
            **arrays,
        )
    except (OSError, ValueError, KeyError, msgspec.ValidationError) as error:
        raise _damaged(folder, str(error)) from error
    if {len(array) for array in arrays.values()} != {index["rows"]}:
        raise _damaged(folder, "arrays of different lengths")
    return snapshot


def _damaged(folder: Path, why: str) -> DataUnfitError:
    return DataUnfitError(
        f"the snapshot is missing or damaged ({why})", where=str(folder), remedy="start a new run; it pulls again"
    )
