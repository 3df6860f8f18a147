"""Samples and parts: no window sees later rows or another symbol, no label was unknown when the next part began."""

import math
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from purgedcv import purge

from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data.instants import NEVER, to_microseconds
from retrain_worker.worker.data.samples import Samples, balanced, select_samples, split_samples, windows
from retrain_worker.worker.data.snapshot import Snapshot
from tests.worker.synthetic_market import market

HOUR = 3_600_000_000


@st.composite
def snapshots(draw: Any) -> Snapshot:
    """A snapshot in canonical order: a few symbols, ties and gaps in time, outcomes of every kind."""
    lengths = draw(st.lists(st.integers(1, 25), min_size=1, max_size=4))
    codes = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    count = len(codes)
    steps = draw(st.lists(st.sampled_from([0, 1, 1, 5, 30, 100]), min_size=count, max_size=count))
    by_symbol = np.split(np.array(steps), np.cumsum(lengths)[:-1])
    decided = np.concatenate([np.cumsum(each) for each in by_symbol]) * HOUR
    held = np.array(draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))) * HOUR
    outcomes = draw(st.lists(st.sampled_from([0, 1, 1, 0, 2, -1]), min_size=count, max_size=count))
    outcome = np.array(outcomes, dtype=np.int8)
    side = np.array(draw(st.lists(st.sampled_from([1, -1, 0]), min_size=count, max_size=count)), dtype=np.int8)
    return replace(
        market(per_symbol=1),
        ids=np.arange(count),
        symbol_codes=codes,
        symbols=tuple("ABCD"[: len(lengths)]),
        decided_at=decided,
        known_at=np.where(outcome < 0, NEVER, decided + held),
        outcome=outcome,
        side=side,
        features=np.arange(count * 3, dtype=np.float32).reshape(count, 3),
    )


def samples_of(*, decided: Any, known: Any, labels: Any) -> Samples:
    count = len(decided)
    return Samples(
        positions=np.arange(count),
        labels=np.array(labels, dtype=np.int8),
        decided_at=np.array(decided, dtype=np.int64),
        known_at=np.array(known, dtype=np.int64),
        symbol_codes=np.zeros(count, dtype=np.int32),
    )


@given(snapshots(), st.integers(1, 8), st.sampled_from([0.0, 10.0, 48.0]))
def test_a_window_holds_the_symbols_last_rows_and_nothing_else(
    snapshot: Any,
    seq_len: Any,
    max_gap_hours: Any,
) -> None:
    samples = select_samples(snapshot, policy=DataPolicy(max_gap_hours=max_gap_hours), seq_len=seq_len)
    found = windows(snapshot.features, samples.positions, seq_len)
    assert found.shape == (len(samples), seq_len, 3)
    taken = set(samples.positions.tolist())
    for row in range(len(snapshot)):
        same = [
            other
            for other in range(len(snapshot))
            if snapshot.symbol_codes[other] == snapshot.symbol_codes[row]
            and (snapshot.decided_at[other], other) <= (snapshot.decided_at[row], row)
        ]
        history = same[-seq_len:]
        gaps = np.diff(snapshot.decided_at[history]) > max_gap_hours * HOUR if max_gap_hours else np.zeros(1)
        is_sample = snapshot.outcome[row] in (0, 1) and len(history) == seq_len and not gaps.any()
        assert (row in taken) == is_sample
        if is_sample:
            (place,) = np.flatnonzero(samples.positions == row)
            np.testing.assert_array_equal(found[place], snapshot.features[history])


@given(snapshots(), st.sampled_from(list(Label)))
def test_labels_say_what_the_policy_asks(snapshot: Any, label: Any) -> None:
    samples = select_samples(snapshot, policy=DataPolicy(label=label, max_gap_hours=0), seq_len=1)
    outcome, side = snapshot.outcome[samples.positions], snapshot.side[samples.positions]
    if label is Label.OUTCOME:
        assert (samples.labels == outcome).all()
        assert set(samples.positions) == set(np.flatnonzero((snapshot.outcome == 0) | (snapshot.outcome == 1)))
    else:
        assert (side != 0).all()
        assert (samples.labels == ((outcome == 1) & (side == 1) | (outcome == 0) & (side == -1))).all()
    assert [*zip(samples.decided_at, samples.positions, strict=True)] == sorted(
        zip(samples.decided_at, samples.positions, strict=True)
    )


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60), st.booleans()), min_size=12, max_size=80),
    st.floats(0.1, 0.4),
    st.floats(0.1, 0.4),
    st.sampled_from([0.0, 1.0, 12.0]),
)
def test_parts_are_disjoint_in_time_order_and_hold_no_label_from_the_future(
    rows: Any,
    holdout: Any,
    validation: Any,
    embargo: Any,
) -> None:
    rows.sort()
    samples = samples_of(
        decided=[at * HOUR for at, _, _ in rows],
        known=[(at + held) * HOUR for at, held, _ in rows],
        labels=[int(label) for _, _, label in rows],
    )
    policy = SplitPolicy(holdout_share=holdout, validation_share=validation, embargo_hours=embargo)
    try:
        parts = split_samples(samples, policy)
    except DataUnfitError:
        assume(False)
    train, middle, held_out = parts.train, parts.validation, parts.holdout
    together = np.concatenate([train.positions, middle.positions, held_out.positions])
    assert len(set(together)) == len(together) == len(samples) - sum(parts.left_out.values())
    assert train.decided_at.max() < middle.decided_at.min() < held_out.decided_at.min()
    assert middle.decided_at.max() < held_out.decided_at.min()
    assert train.known_at.max() < middle.decided_at.min()
    assert middle.known_at.max() < held_out.decided_at.min()
    for earlier, later in ((parts.split.train, parts.split.validation), (parts.split.validation, parts.split.holdout)):
        assert later.start - earlier.end in (timedelta(hours=embargo), later.end - earlier.end)


@settings(max_examples=40)
@given(st.integers(60, 200), st.integers(0, 2**32 - 1))
def test_the_purge_agrees_with_an_independent_implementation(count: Any, seed: Any) -> None:
    random = np.random.default_rng(seed)
    decided = np.sort(random.integers(0, 500, count)) * HOUR
    # a minute past the hour: the other implementation keeps an outcome known at the very seam, ours does not
    known = decided + random.integers(0, 30, count) * HOUR + HOUR // 60
    samples = samples_of(decided=decided, known=known, labels=np.arange(count) % 2)
    parts = split_samples(samples, SplitPolicy(embargo_hours=0.0))
    for part, later in ((parts.train, parts.split.validation), (parts.validation, parts.split.holdout)):
        start, end = to_microseconds(later.start), to_microseconds(later.end)
        earlier_start = decided[0] if part is parts.train else to_microseconds(parts.split.validation.start)
        before = np.flatnonzero((decided >= earlier_start) & (decided < start))
        after = np.flatnonzero((decided >= start) & (decided < end))
        kept = purged_elsewhere(decided, known, before, after)
        assert set(part.positions.tolist()) == set(kept)


def purged_elsewhere(decided: Any, known: Any, before: Any, after: Any) -> Any:
    times = pd.Series(pd.to_datetime(decided, unit="us"))
    ends = pd.Series(pd.to_datetime(known, unit="us"))
    return purge(before, after, prediction_times=times, evaluation_times=ends).tolist()


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 5))
def test_balanced_means_exactly_as_many_of_each_in_time_order(labels: Any, seed: Any) -> None:
    count = len(labels)
    samples = samples_of(decided=np.arange(count), known=np.arange(count), labels=labels)
    even = balanced(samples, seed=seed)
    rarer = min(sum(labels), count - sum(labels))
    assert even.counts() == {"win": rarer, "loss": rarer}
    assert (np.diff(even.positions) > 0).all()
    assert (balanced(samples, seed=seed).positions == even.positions).all()


def test_balancing_draws_from_the_whole_of_the_commoner_class() -> None:
    samples = samples_of(decided=np.arange(1000), known=np.arange(1000), labels=np.arange(1000) % 10 == 0)
    drawn = {tuple(balanced(samples, seed=seed).positions.tolist()) for seed in range(5)}
    assert len(drawn) == 5
    losses = [place for place in drawn.pop() if place % 10]
    assert min(losses) < 150
    assert max(losses) > 850


@pytest.mark.parametrize(
    ("labels", "said"),
    [([], "no row has both"), ([1] * 100, "the train part"), ([1, 0] * 40 + [1] * 20, "the holdout part holds 15")],
)
def test_parts_that_cannot_be_scored_are_refused(labels: Any, said: str) -> None:
    samples = samples_of(decided=np.arange(len(labels)) * HOUR, known=np.arange(len(labels)) * HOUR, labels=labels)
    with pytest.raises(DataUnfitError, match=said):
        split_samples(samples, SplitPolicy(embargo_hours=0.0))


def test_a_part_that_is_purged_says_so_and_what_to_check() -> None:
    samples = samples_of(decided=np.arange(100) * HOUR, known=np.full(100, 200 * HOUR), labels=np.arange(100) % 2)
    with pytest.raises(DataUnfitError, match=r"train part holds 0 .* 0 .*\(72 more are purged.*; check exit_time"):
        split_samples(samples, SplitPolicy(embargo_hours=0.0))


def test_outcomes_that_were_never_dated_are_purged_from_training_only() -> None:
    count = 100
    known = np.where(np.arange(count) % 2, NEVER, np.arange(count) * HOUR)
    samples = samples_of(decided=np.arange(count) * HOUR, known=known, labels=np.arange(count) // 2 % 2)
    parts = split_samples(samples, SplitPolicy(embargo_hours=0.0))
    assert NEVER not in parts.train.known_at
    assert NEVER not in parts.validation.known_at
    assert NEVER in parts.holdout.known_at


def test_shares_are_of_the_samples_and_seams_never_divide_an_instant() -> None:
    decided = np.repeat(np.arange(100), 10) * HOUR
    samples = samples_of(decided=decided, known=decided, labels=np.arange(1000) % 2)
    parts = split_samples(samples, SplitPolicy(embargo_hours=0.0))
    assert len(parts.holdout) == 150
    assert math.isclose(len(parts.validation), 0.15 * 850, rel_tol=0.1)
    assert parts.left_out == {"purged": 0, "embargo": 0}


def test_windows_read_a_memory_mapped_matrix(tmp_path: Path) -> None:
    matrix = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "features.npy", matrix)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    np.testing.assert_array_equal(windows(mapped, np.array([4, 19]), 5), np.stack([matrix[:5], matrix[15:]]))


def test_the_windows_of_a_million_rows_cost_no_more_memory_than_one_batch(tmp_path: Path) -> None:
    count, seq_len, batch = 1_000_000, 128, 512
    np.save(tmp_path / "features.npy", np.zeros((count, 4), dtype=np.float32))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    positions = np.random.default_rng(0).permutation(np.arange(seq_len - 1, count))[: 40 * batch]
    batch_bytes = batch * seq_len * 4 * 4
    tracemalloc.start()
    try:
        for first in range(0, len(positions), batch):
            found = windows(mapped, positions[first : first + batch], seq_len)
            assert found.nbytes == batch_bytes
            del found
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1.1 * batch_bytes
