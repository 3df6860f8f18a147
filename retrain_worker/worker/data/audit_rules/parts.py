"""Parts: whether the samples of a training can be divided in time, as the training itself divides them."""

from __future__ import annotations

from retrain_worker.domain.audit_findings import Finding, Severity
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker.data.audit_rules.rule import finding
from retrain_worker.worker.data.samples import training_parts
from retrain_worker.worker.data.snapshot import Snapshot


def parts(snapshot: Snapshot, *, policy: DataPolicy, split: SplitPolicy, seq_len: int | None) -> Finding:
    """Samples of each part. `seq_len`: rows per window, None = only the training learns them from the incumbent."""
    if seq_len is None:
        text = "the window length is that of the incumbent, which is not known here; the training divides the rows"
        return finding("split.parts", Severity.OK, text)
    try:
        samples, divided = training_parts(snapshot, policy=policy, split=split, seq_len=seq_len)
    except DataUnfitError as error:
        return finding("split.parts", Severity.REFUSAL, error.what, remedy=error.remedy)
    counts = {name: len(getattr(divided, name)) for name in ("train", "validation", "holdout")} | divided.left_out
    words = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    text = f"{len(samples):,} samples of {seq_len} rows: {words}"
    return finding("split.parts", Severity.OK, text, measured=len(samples), counts=counts)
