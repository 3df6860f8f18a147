"""A window without information gets no opinion from a model of the engine preset, at no cost for the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from retrain_worker.domain.gates import GateOutcome, GatePolicy
from retrain_worker.domain.gates.contract import CONTRACT, constant_window_of, fault_of_file
from retrain_worker.domain.recipe import ConstantWindow, Preset, Recipe
from retrain_worker.domain.worker_protocol import GateRequest
from retrain_worker.worker.gate_measurement import measure
from retrain_worker.worker.training.train import train
from tests.unit.test_gates import GOOD
from tests.worker.synthetic_market import saved
from tests.worker.test_training import request

HOLD, ALLOW = ConstantWindow.HOLD, ConstantWindow.ALLOW
RECIPE = Recipe(preset=Preset.ENGINE, max_epochs=3, patience=3, batch_size=32, threads=1, device="cpu")


def measured(folder: Path, constant_window: ConstantWindow) -> tuple[float, float]:
    """P(WIN) of a constant window, and the AUC on the holdout, of a model that is trained with this setting."""
    saved(folder, per_symbol=900)
    recipe = replace(RECIPE, constant_window=constant_window)
    asked = request(folder, recipe=recipe, incumbent_path=None)
    result = train(asked, lambda _: None, lambda: False)
    found = measure(
        GateRequest(
            run_id=asked.run_id,
            run_dir=str(folder),
            candidate_path=result.model_path,
            incumbent_path=None,
            data=asked.data,
            split=asked.split,
            recipe=recipe,
            policy=GatePolicy(),
        ),
        lambda _: None,
    ).evidence
    constant, auc = found.contract.constant_window_probability, found.candidate.auc
    assert constant is not None
    assert auc is not None
    assert found.contract.is_engine_preset
    return constant, auc


def test_training_on_constant_windows_costs_no_skill(tmp_path: Path) -> None:
    (answer, auc), (_, auc_without) = measured(tmp_path / "hold", HOLD), measured(tmp_path / "allow", ALLOW)

    assert 0.45 <= answer <= 0.55
    assert auc > auc_without - 0.01


@pytest.mark.parametrize(
    ("answer", "is_engine", "setting", "result"),
    [
        (0.5, True, HOLD, GateOutcome.PASS),
        (0.6564, True, HOLD, GateOutcome.FAIL),
        (0.31, True, HOLD, GateOutcome.FAIL),
        (None, True, HOLD, GateOutcome.UNDECIDED),
        (0.6564, True, ALLOW, GateOutcome.PASS),
        (0.6564, False, HOLD, GateOutcome.PASS),
    ],
)
def test_the_contract_gate_requires_hold_of_the_engine_preset(
    answer: float | None, is_engine: bool, setting: ConstantWindow, result: GateOutcome
) -> None:
    contract = replace(GOOD.contract, constant_window_probability=answer, is_engine_preset=is_engine)
    policy = GatePolicy(hold_on_constant_window=setting is HOLD)
    found = CONTRACT.judge(replace(GOOD, contract=contract), policy)

    assert found.result is result
    assert constant_window_of((found,)) == answer
    assert bool(fault_of_file(found, policy)) is (result is not GateOutcome.PASS)


def test_the_presets_that_train_on_constant_windows() -> None:
    assert [RECIPE.trains_on_constant_windows(preset) for preset in (Preset.ENGINE, Preset.PAPER)] == [True, False]
    assert not replace(RECIPE, constant_window=ALLOW).trains_on_constant_windows(Preset.ENGINE)
