"""LABEL=direction from the table to the engine's file: what is learned is where the price went, not who won."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests.acceptance.conftest import copy_of, once

#: a trade now wins when its side was the right one: a SELL wins where the market's regime says lose
_BY_SIDE = """\
UPDATE ai_training_samples SET
    target_class = CASE target_class WHEN 'WIN' THEN 'LOSS' ELSE 'WIN' END, realized_pnl = -realized_pnl,
    target_label = -target_label, exit_price = 2 * entry_price - exit_price
WHERE execution_side = 'SELL' AND outcome_known = 1
"""


@pytest.fixture(scope="module")
def by_side(learnable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = copy_of(learnable, tmp_path_factory.mktemp("by_side"))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(_BY_SIDE)
    return database


def test_a_market_whose_direction_can_be_learned_is_promoted_and_the_file_says_direction(
    by_side: Path,
    tmp_path: Path,
) -> None:
    code, result, said = once(by_side, tmp_path / "home", LABEL="direction")

    assert (code, result.get("outcome")) == (0, "PROMOTED"), said
    assert result["candidate"]["auc"] > 0.7
    assert torch.load(result["model_path"], weights_only=True)["label"] == "direction"


def test_the_same_market_teaches_nothing_about_outcomes(by_side: Path, tmp_path: Path) -> None:
    code, result, _said = once(by_side, tmp_path / "home", LABEL="outcome", MAX_EPOCHS=2)

    assert (code, result["outcome"]) == (11, "REFUSED")
