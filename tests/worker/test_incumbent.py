"""What the engine runs is a contract also where its model cannot be measured; an unreadable file is no empty slot."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from retrain_worker.domain import artifact
from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.gates import Evidence, GateOutcome, GatePolicy, GateResult
from retrain_worker.domain.gates.contract import CONTRACT
from retrain_worker.domain.labels import Label
from retrain_worker.domain.recipe import Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.worker_protocol import EmptySlot, GateRequest, TrainRequest
from retrain_worker.errors import ContractError
from retrain_worker.worker.gate_measurement import measure
from retrain_worker.worker.training.train import train
from tests.worker.synthetic_market import NAMES, market, saved
from tests.worker.test_bundle import engine_state
from tests.worker.test_scoring import ENGINE, PAPER, write_model

THREE, FIVE = NAMES[:3], (*NAMES, "spread")


def with_names(run_dir: Path, names: tuple[str, ...]) -> None:
    """A snapshot whose rows have features of these names."""
    features = np.hstack([market().features, market().features])[:, : len(names)]
    saved(run_dir, features=features, feature_names=names)


def measured(
    folder: Path,
    candidate: ModelContract,
    incumbent: Path | None,
    *,
    names: tuple[str, ...] = NAMES,
    recipe: Recipe = Recipe(threads=1),  # noqa: B008 - immutable
    empty_slot: EmptySlot = EmptySlot(),  # noqa: B008 - immutable
) -> tuple[Evidence, GateResult]:
    """A candidate beside the file that the slot names, and what the contract gate says of it."""
    run_dir = folder / "run"
    with_names(run_dir, names)
    path = write_model(artifact.model_file(run_dir, "patchtst_v20261123_000001"), candidate, seed=1)
    found = measure(
        GateRequest(
            run_id="20261123_000001",
            run_dir=str(run_dir),
            candidate_path=path,
            incumbent_path=str(incumbent) if incumbent else None,
            data=DataPolicy(),
            split=SplitPolicy(),
            recipe=recipe,
            policy=GatePolicy(),
            empty_slot=empty_slot,
        ),
        lambda _: None,
    ).evidence
    return found, CONTRACT.judge(found, GatePolicy())


def differing(found: Evidence) -> list[str]:
    return [mismatch.partition(":")[0] for mismatch in found.contract.mismatches]


def _another_width(path: Path) -> None:
    torch.save({"model_state_dict": engine_state() | {"patch_embedding.weight": torch.zeros(128, 16 * 23)}}, path)


#: how the file is made, and why it cannot be read
UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(1).bytes(4096)), "it is damaged"),
    "a pickled module": (lambda path: torch.save(torch.nn.Linear(2, 1), path), "safe load refuses"),
    "an old pickle": (lambda path: path.write_bytes(pickle.dumps(np.float64(3.0))), "safe load refuses"),
    "another network": (_another_width, "a network of 23 inputs a row"),
    "an empty file": (Path.touch, "it is damaged"),
    "a folder": (Path.mkdir, "Is a directory"),
    "nothing": (lambda _path: None, "No such file"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_incumbent_that_cannot_be_read_leaves_the_contract_undecided(tmp_path: Path, kind: str) -> None:
    make, why = UNREADABLE[kind]
    path = tmp_path / "patchtst_old.pth"
    make(path)
    found, gate = measured(tmp_path, PAPER, path)
    assert (found.incumbent, differing(found), gate.result) == (None, [], GateOutcome.UNDECIDED)
    assert str(path) in gate.message
    assert why in gate.message


def test_an_empty_slot_leaves_the_contract_to_the_candidate(tmp_path: Path) -> None:
    found, gate = measured(tmp_path, PAPER, None)
    assert (found.contract.unknown, differing(found), gate.result) == ("", [], GateOutcome.PASS)


STRANGE = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("incumbent", "differs"),
    [
        (dataclasses.replace(PAPER, label=Label.DIRECTION), ["label"]),
        (dataclasses.replace(PAPER, feature_names=STRANGE), ["feature_names"]),
        (
            dataclasses.replace(PAPER, feature_names=STRANGE, label=Label.DIRECTION, context_length=48),
            ["context_length", "feature_names", "label"],
        ),
    ],
)
def test_an_incumbent_that_cannot_be_measured_on_these_rows_still_has_its_contract(
    tmp_path: Path, incumbent: ModelContract, differs: list[str]
) -> None:
    path = artifact.model_file(tmp_path, "patchtst_v20261122_000000")
    write_model(path, incumbent, seed=2)
    found, gate = measured(tmp_path, PAPER, path)
    assert (found.incumbent, differing(found), gate.result) == (None, differs, GateOutcome.FAIL)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model_state_dict": state, "epoch": 20}])
@pytest.mark.parametrize("names", [NAMES, THREE, FIVE])
def test_a_file_of_the_older_scripts_has_the_engines_contract_whatever_the_rows_have(
    tmp_path: Path, wrap: Callable[..., object], names: tuple[str, ...]
) -> None:
    path = tmp_path / "patchtst_old.pth"
    torch.save(wrap(engine_state()), path)
    paper = dataclasses.replace(PAPER, feature_names=names[:4])
    found, gate = measured(tmp_path, paper, path, names=names)
    assert differing(found) == ["preset", "context_length", "input_transform"]
    assert gate.result is GateOutcome.FAIL


def test_an_older_file_does_not_say_which_of_the_rows_features_it_means(tmp_path: Path) -> None:
    path = tmp_path / "patchtst_old.pth"
    torch.save(engine_state(), path)
    known, passed = measured(tmp_path / "four", ENGINE, path)
    guessed, undecided = measured(tmp_path / "five", ENGINE, path, names=FIVE)
    assert (differing(known), passed.result) == ([], GateOutcome.PASS)
    assert (differing(guessed), undecided.result) == ([], GateOutcome.UNDECIDED)


@pytest.mark.parametrize(
    ("empty_slot", "preset", "result"),
    [
        (EmptySlot(), Preset.AUTO, GateOutcome.PASS),
        (EmptySlot(is_contract_required=True), Preset.AUTO, GateOutcome.UNDECIDED),
        (EmptySlot(is_contract_required=True), Preset.PAPER, GateOutcome.PASS),
        (EmptySlot(contract=PAPER, is_contract_required=True), Preset.AUTO, GateOutcome.PASS),
        (EmptySlot(contract=ENGINE), Preset.AUTO, GateOutcome.FAIL),
        (EmptySlot(contract=ENGINE), Preset.PAPER, GateOutcome.PASS),
    ],
)
def test_an_empty_slot_is_no_proof_that_a_model_fits_the_engine(
    tmp_path: Path, empty_slot: EmptySlot, preset: Preset, result: GateOutcome
) -> None:
    recipe = Recipe(threads=1, preset=preset)
    _found, gate = measured(tmp_path, PAPER, None, recipe=recipe, empty_slot=empty_slot)

    assert gate.result is result
    if result is GateOutcome.UNDECIDED:
        assert "set PRESET=engine" in gate.message


def test_preset_auto_takes_the_engines_contract_over_or_names_the_setting_that_stands_in_the_way(
    tmp_path: Path,
) -> None:
    path = tmp_path / "patchtst_old.pth"
    torch.save(engine_state(), path)
    run_dir = tmp_path / "run"
    with_names(run_dir, FIVE)
    asked = TrainRequest(
        run_id="20261123_000001",
        run_dir=str(run_dir),
        version="patchtst_v20261123_000001",
        data=DataPolicy(),
        split=SplitPolicy(),
        recipe=Recipe(device="cpu", threads=1),
        checkpoint_dir=str(run_dir / "checkpoints"),
        incumbent_path=str(path),
    )
    with pytest.raises(ContractError, match=r"takes 4 or 8 features a row, not 5.*FEATURE_NAMES"):
        train(asked, lambda _: None, lambda: False)
