"""The file of predictions holds what the verdict was measured on, and its absence or damage is one clear error."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

from retrain_worker.domain import artifact
from retrain_worker.domain.report_request import PREDICTIONS_FILE
from retrain_worker.domain.worker_protocol import GateMeasured
from retrain_worker.errors import DataUnfitError
from retrain_worker.worker import predictions_file
from retrain_worker.worker.gate_measurement import measure
from retrain_worker.worker.predictions_file import HOLDOUT
from tests.worker.synthetic_market import HOUR, NAMES, market, saved
from tests.worker.test_scoring import ENGINE, PAPER, request, write_model


def measured(folder: Path, *, reference: Path | None = None) -> GateMeasured:
    saved(folder, per_symbol=700)
    candidate = write_model(artifact.model_file(folder, "patchtst_v20261123_000001"), PAPER, seed=1)
    incumbent = write_model(artifact.model_file(folder, "patchtst_v20261123_000002"), ENGINE, seed=2)
    asked = replace(request(folder, candidate, incumbent), reference_dir=str(reference) if reference else None)
    return measure(asked, lambda _: None)


def test_the_gate_stores_the_predictions_that_its_scorecards_follow_from(tmp_path: Path) -> None:
    evidence = measured(tmp_path).evidence
    stored = predictions_file.read(tmp_path)
    holdout = stored.rows.filter(pl.col("part") == HOLDOUT)
    both = holdout.filter(pl.col("incumbent").is_not_null())

    assert holdout.height == evidence.candidate.n
    assert metrics.roc_auc_score(holdout["label"], holdout["candidate"]) == pytest.approx(evidence.candidate.auc)
    assert evidence.incumbent is not None
    assert both.height == evidence.incumbent.n
    assert metrics.roc_auc_score(both["label"], both["incumbent"]) == pytest.approx(evidence.incumbent.auc)
    assert holdout["decided_at"].is_sorted()
    assert set(stored.info.versions) >= {"Python", "torch", "retrain-worker"}


def test_features_are_counted_beside_those_of_the_last_promoted_run(tmp_path: Path) -> None:
    reference = tmp_path / "20260101_000000"
    earlier = market(per_symbol=700)
    saved(reference, per_symbol=700, decided_at=earlier.decided_at - int(24 * HOUR))
    measured(tmp_path, reference=reference)
    info = predictions_file.read(tmp_path).info
    newest = int((earlier.decided_at - int(24 * HOUR)).max())

    assert info.reference_run == "20260101_000000"
    assert [feature.name for feature in info.features] == list(NAMES)
    for feature in info.features:
        assert sum(feature.before) == len(earlier)
        assert sum(feature.now) == int((earlier.decided_at > newest).sum())
        assert len(feature.edges) == len(feature.now) + 1
        assert np.all(np.diff(feature.edges) > 0)


def test_without_a_readable_reference_the_features_stand_alone(tmp_path: Path) -> None:
    measured(tmp_path, reference=tmp_path / "removed")
    info = predictions_file.read(tmp_path).info

    assert info.reference_run == ""
    assert all(not feature.before and sum(feature.now) == 1400 for feature in info.features)


def test_a_full_disk_costs_the_charts_and_not_the_verdict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / PREDICTIONS_FILE).mkdir()
    with caplog.at_level(logging.WARNING):
        found = measured(tmp_path)

    assert found.evidence.candidate.auc is not None
    assert "its report has no charts of them" in caplog.text


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "there are none"),
        (b"no parquet", "cannot be read"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": "one"}', "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_error(tmp_path: Path, content: bytes | str | None, cause: str) -> None:
    path = tmp_path / PREDICTIONS_FILE
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        pl.DataFrame({"id": [1]}).write_parquet(path, metadata={"retrain_worker.predictions": content})
    with pytest.raises(DataUnfitError, match=cause):
        predictions_file.read(tmp_path)
