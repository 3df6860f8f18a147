"""The frozen rows of one run: columns in canonical order, their content hash, and their file.

Canonical order is (symbol, decided_at, id), symbols as they are written. The hash covers what training and gates see,
with features in the order of their names: the same rows give the same hash whatever their physical order, whether
their features were arrays or objects, and in whichever order the names stood.

The file is Parquet with readable values (DuckDB: `SELECT symbol, avg(feature_rsi) FROM 'snapshot.parquet' GROUP BY 1`);
its metadata holds the feature names, the hash, and what the pull counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from retrain_worker import durable_file, typed_json
from retrain_worker.errors import DataUnfitError, MalformedError
from retrain_worker.worker.data.features import column_of
from retrain_worker.worker.data.instants import NEVER

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Float64s = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]

FILE_NAME = "snapshot.parquet"
_FOLDER_0_1, _INDEX = "snapshot", "snapshot.json"
_NAMES, _HASH, _FACTS = "retrain_worker.feature_names", "retrain_worker.data_sha256", "retrain_worker.facts"

#: the words for the codes of outcomes.py
_OUTCOMES = {0: "LOSS", 1: "WIN", 2: "NEUTRAL"}
_RECORDED = _OUTCOMES | {-1: "OPEN", -2: "UNKNOWN_CLASS", -3: "CLASS_WITHOUT_OUTCOME", -4: "OUTCOME_WITHOUT_CLASS"}
_WORDS = {
    "outcome": _OUTCOMES | {-1: "OPEN"},
    "recorded_outcome": _RECORDED,
    "side": {1: "BUY", -1: "SELL", 0: "NONE"},
    "action": {1: "BUY", -1: "SELL", 0: "HOLD", -128: "UNKNOWN"},
}
_INSTANT = pl.Datetime("us", "UTC")


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
    #: a few of them and of those noted, for each reason, `id 17 features_not_json`, lowest ids first
    quarantined_examples: tuple[str, ...] = ()
    #: thing noticed -> rows that are in the snapshot all the same
    noted: Mapping[str, int] = field(default_factory=dict)
    #: class that is none of WIN, LOSS, NEUTRAL (as ascii()) -> rows
    unknown_classes: Mapping[str, int] = field(default_factory=dict)
    #: feature name that is not trained on -> rows that have it
    features_left_out: Mapping[str, int] = field(default_factory=dict)
    #: feature name -> rows left out in which its value is no finite number
    features_unusable: Mapping[str, int] = field(default_factory=dict)
    #: names that feature_names declares and the objects beside it lack
    features_undelivered: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Rows sorted by (symbol, decided_at, id). The arrays are read-only."""

    #: int64[N]
    ids: Int64s
    #: int32[N], index into `symbols`
    symbol_codes: Int32s
    #: sorted
    symbols: tuple[str, ...]
    #: int64[N], microseconds since the epoch, UTC
    decided_at: Int64s
    #: int64[N], when the outcome was known (outcomes.known_at), never before decided_at; int64's maximum = never
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
#: array -> its column in a frame
_COLUMNS = {name: name for name in ARRAYS if name not in ("symbol_codes", "features")} | {"ids": "id"}


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


def snapshot_of(rows: pl.DataFrame, *, names: tuple[str, ...], facts: PullFacts, sha256: str | None = None) -> Snapshot:
    """The snapshot of a frame in canonical order, as `frame_of` gives it; its hash is computed where none is given."""
    kind = rows.schema["symbol"]
    assert isinstance(kind, pl.Enum)
    symbols = tuple(kind.categories)
    matrix = rows.select(map(column_of, names)).to_numpy(order="c") if names else np.empty((len(rows), 0))
    arrays: dict[str, npt.NDArray[Any]] = {
        name: rows[column].to_numpy() for name, column in _COLUMNS.items() if column in rows.columns
    }
    arrays |= {
        "symbol_codes": rows["symbol"].to_physical().cast(pl.Int32).to_numpy(),
        "features": matrix.astype(np.float32, copy=False),
    }
    digest = sha256 or content_hash(arrays, symbols=symbols, names=names)
    return Snapshot(symbols=symbols, feature_names=names, data_sha256=digest, facts=facts, **arrays)


def frame_of(snapshot: Snapshot) -> pl.DataFrame:
    """The rows as a frame: the columns of the snapshot, `symbol` as an Enum, and `feature_NAME` for each feature."""
    codes = pl.Series(snapshot.symbol_codes)
    symbol = pl.Series(snapshot.symbols, dtype=pl.String).gather(codes).cast(pl.Enum(snapshot.symbols))
    return pl.DataFrame(
        [symbol.alias("symbol")]
        + [pl.Series(column, getattr(snapshot, name), nan_to_null=True) for name, column in _COLUMNS.items()]
        + [pl.Series(column_of(name), snapshot.features[:, place]) for place, name in enumerate(snapshot.feature_names)]
    )


def save(snapshot: Snapshot, run_dir: Path) -> None:
    """Write `run_dir/snapshot.parquet`, replacing what is there, all or nothing. Raises DiskFullError."""
    readable = frame_of(snapshot).with_columns(
        *(
            pl.col(column).replace_strict(words, return_dtype=pl.Enum(words.values()))
            for column, words in _WORDS.items()
        ),
        pl.col("decided_at").cast(_INSTANT),
        pl.when(pl.col("known_at") < NEVER).then("known_at").cast(_INSTANT),
    )
    metadata = {
        _NAMES: json.dumps(snapshot.feature_names),
        _HASH: snapshot.data_sha256,
        _FACTS: msgspec.json.encode(snapshot.facts).decode(),
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    with durable_file.replacing(run_dir / FILE_NAME) as file:
        readable.write_parquet(file, compression="lz4", metadata=metadata)


def load(run_dir: Path) -> Snapshot:
    """The saved snapshot. Raises DataUnfitError when it is missing or damaged."""
    path = run_dir / FILE_NAME
    try:
        if not path.exists() and (run_dir / _FOLDER_0_1).is_dir():
            return _load_arrays(run_dir / _FOLDER_0_1)
        metadata = pl.read_parquet_metadata(path)
        names = tuple(json.loads(metadata[_NAMES]))
        facts = typed_json.decode(metadata[_FACTS], PullFacts)
        rows = pl.read_parquet(path).with_columns(
            *(
                pl.col(column).replace_strict({word: code for code, word in words.items()}, return_dtype=pl.Int8)
                for column, words in _WORDS.items()
            ),
            pl.col("decided_at").cast(pl.Int64),
            pl.col("known_at").cast(pl.Int64).fill_null(NEVER),
        )
        return snapshot_of(rows, names=names, facts=facts, sha256=metadata[_HASH])
    except (OSError, ValueError, KeyError, MalformedError, pl.exceptions.PolarsError) as error:
        raise DataUnfitError(
            f"the snapshot is missing or damaged ({str(error).partition(chr(10))[0]})",
            where=str(path),
            remedy="start a new run; it pulls again",
        ) from error


def save_mapped(snapshot: Snapshot, folder: Path) -> None:
    """Write the arrays for `load_mapped`. Raises DiskFullError."""
    folder.mkdir(exist_ok=True)
    with durable_file.named_errors(folder):
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(snapshot, name))
        index = {name: getattr(snapshot, name) for name in ("symbols", "feature_names", "data_sha256", "facts")}
        (folder / _INDEX).write_bytes(msgspec.json.encode(index | {"rows": len(snapshot)}))


def load_mapped(folder: Path) -> Snapshot:
    """A snapshot whose arrays are files in memory, of which the processes of a host share one copy."""
    return _load_arrays(folder, mmap_mode="r")


def _load_arrays(folder: Path, *, mmap_mode: Literal["r"] | None = None) -> Snapshot:
    """A JSON index, and a .npy file of each array; version 0.1 wrote snapshots in this form."""
    index = json.loads((folder / _INDEX).read_bytes())
    arrays = {
        name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode=mmap_mode, allow_pickle=False)) for name in ARRAYS
    }
    if {len(array) for array in arrays.values()} != {index["rows"]}:
        raise ValueError("arrays of different lengths")
    facts = typed_json.convert(index["facts"], PullFacts)
    return Snapshot(
        symbols=tuple(index["symbols"]),
        feature_names=tuple(index["feature_names"]),
        data_sha256=index["data_sha256"],
        facts=facts,
        **arrays,
    )
