"""A model's answers for rows of a snapshot, in chunks, so that the array of all windows never exists."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from retrain_worker.errors import ContractError
from retrain_worker.model import patchtst
from retrain_worker.model.bundle import Bundle
from retrain_worker.model.patchtst import PatchTST
from retrain_worker.worker.data.samples import Samples, windows
from retrain_worker.worker.data.snapshot import Snapshot

#: windows per chunk
CHUNK = 1024
#: std over time under which a channel of the network's input is constant
CONSTANT_STD = 1e-6


def features_of(snapshot: Snapshot, names: tuple[str, ...]) -> NDArray[np.float32]:
    """The features (N, F) called `names`, in that order. Raises ContractError when the rows lack one."""
    missing = [name for name in names if name not in snapshot.feature_names]
    if missing:
        raise ContractError(
            f"the rows have no feature {', '.join(missing)}; they have {', '.join(snapshot.feature_names)}",
            where="snapshot",
            remedy="set FEATURE_NAMES to features that both the rows and the model have",
        )
    # of all features in their order no copy is made
    columns = [snapshot.feature_names.index(name) for name in names] if names != snapshot.feature_names else slice(None)
    return np.ascontiguousarray(snapshot.features[:, columns], dtype=np.float32)


def logits_at(model: PatchTST, features_NF: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits (M,) of the windows that end at `positions` (M,).

    Each of torch's threads computes whole chunks instead of synchronising at every operation.
    """
    was_training, threads = model.training, torch.get_num_threads()
    model.eval()  # here, not in each thread: patchtst.logits would restore the mode while another thread still computes
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, "answers", torch.set_num_threads, (1,)) as pool:
            parts = list(
                pool.map(
                    lambda chunk: patchtst.logits(model, windows(features_NF, chunk, model.config.context_length)),
                    [positions[start : start + CHUNK] for start in range(0, len(positions), CHUNK)],
                )
            )
    finally:
        torch.set_num_threads(threads)
        model.train(was_training)
    return np.concatenate(parts) if parts else np.empty(0)


def probabilities_at(
    model: PatchTST, features_NF: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """P(label = 1) (M,) of the windows that end at `positions` (M,)."""
    return patchtst.sigmoid(logits_at(model, features_NF, positions))


def answers_of(model: Bundle, snapshot: Snapshot, samples: Samples) -> NDArray[np.float64]:
    """P(label = 1) (M,) for `samples` of the model's window length."""
    features = features_of(snapshot, model.contract.feature_names)
    return probabilities_at(model.model, features, samples.positions)


@torch.inference_mode()
def constant_input_share(
    model: PatchTST, features_NF: NDArray[np.float32], positions: NDArray[np.int64]
) -> float | None:
    """The share of windows that the model's own transform turns into a constant over time; None without windows.

    A serving process that repeats one row to fill its window gives such an input, about which no model has information.
    """
    num_constant = 0
    for chunk_BTF in _chunks(model, features_NF, positions):
        input_BTC = model.transform(torch.from_numpy(chunk_BTF))
        num_constant += int((input_BTC.std(dim=1) < CONSTANT_STD).all(dim=1).sum())
    return num_constant / len(positions) if len(positions) else None


def constant_window_probability(model: Bundle, features_NF: NDArray[np.float32]) -> float | None:
    """P(label = 1) of the window that repeats the mean row; None without rows, or where it is not finite.

    Every constant window of the engine preset is the same input: min-max makes it zeros.
    """
    if not len(features_NF):
        return None
    row = features_NF.mean(axis=0, dtype=np.float64).astype(np.float32)
    window = np.broadcast_to(row, (1, model.contract.context_length, len(row)))
    found = float(model.probabilities(np.ascontiguousarray(window))[0])
    return found if np.isfinite(found) else None


def _chunks(
    model: PatchTST, features_NF: NDArray[np.float32], positions: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(positions), CHUNK):
        yield windows(features_NF, positions[start : start + CHUNK], model.config.context_length)
