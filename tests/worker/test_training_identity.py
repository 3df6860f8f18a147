"""A stored training state is used by a later version of the program exactly if it would train the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any

import pytest

from retrain_worker.domain.artifact import ModelContract
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.labels import Label
from retrain_worker.domain.recipe import TUNINGS, InputTransform, Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.worker.training.training_identity import as_json, difference
from retrain_worker.worker.training.variant_search import Variant

CONTRACT = ModelContract(
    preset=Preset.ENGINE, context_length=128, feature_names=("a", "b"), input_transform=InputTransform.MINMAX
)
IDENTITY: dict[str, Any] = {
    "data_sha256": "0" * 64,
    "recipe": Recipe(learning_rate=0.1, max_epochs=3),
    "data": DataPolicy(),
    "split": SplitPolicy(),
    "variants": tuple(Variant(contract=CONTRACT, tuning=tuning) for tuning in TUNINGS[Preset.ENGINE]),
    "revision": 1,
    "incumbent_sha256": None,
}


def changed(**values: Any) -> dict[str, Any]:
    return IDENTITY | {"recipe": replace(IDENTITY["recipe"], **values)}


def test_an_identity_is_equal_to_its_stored_form() -> None:
    assert difference(as_json(IDENTITY), IDENTITY) is None


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (changed(max_epochs=4), "recipe.max_epochs was 3 and is 4"),
        (changed(learning_rate=None), "recipe.learning_rate was 0.1 and is None"),
        (IDENTITY | {"revision": 2}, "revision was 1 and is 2"),
        (IDENTITY | {"data": DataPolicy(label=Label.DIRECTION)}, "data.label was outcome and is direction"),
        (IDENTITY | {"variants": IDENTITY["variants"][:1]}, "variants.1."),
        (
            IDENTITY | {"variants": (replace(IDENTITY["variants"][0], contract=replace(CONTRACT, context_length=64)),)},
            "variants.0.contract.context_length was 128 and is 64",
        ),
        (IDENTITY | {"device": "cuda"}, "device was None and is cuda"),
    ],
)
def test_the_first_field_that_differs_is_named(identity: dict[str, Any], reason: str) -> None:
    assert reason in (difference(as_json(IDENTITY), identity) or "equal")


def extended(value: Any) -> Any:
    """`value` as a later version may define it, with a field more."""
    names = [(name, Any, field(default=None)) for name in vars(value)]
    later = make_dataclass("Later", [*names, ("added_later", int, field(default=7))], frozen=True, kw_only=True)
    return later(**vars(value))


@pytest.mark.parametrize("name", ["recipe", "data", "split"])
def test_a_field_that_an_upgrade_adds_counts_only_when_it_is_set(name: str) -> None:
    later = extended(IDENTITY[name])
    assert difference(as_json(IDENTITY), IDENTITY | {name: later}) is None
    assert difference(as_json(IDENTITY), IDENTITY | {name: replace(later, added_later=8)}) == (
        f"{name}.added_later was 7 and is 8"
    )
    assert difference(as_json(IDENTITY | {name: later}), IDENTITY) == f"{name}.added_later was 7 and is None"


def test_a_field_that_an_upgrade_adds_to_a_nested_value_counts_only_when_it_is_set() -> None:
    first, second = IDENTITY["variants"]
    tuning = extended(second.tuning)
    assert difference(as_json(IDENTITY), IDENTITY | {"variants": (first, replace(second, tuning=tuning))}) is None
    tuning = replace(tuning, added_later=8)
    assert difference(as_json(IDENTITY), IDENTITY | {"variants": (first, replace(second, tuning=tuning))}) == (
        "variants.1.tuning.added_later was 7 and is 8"
    )


@pytest.mark.parametrize("stored", ["", "0123456789abcdef", "[1]", "null", "7", '"text"', "{}"])
def test_a_stored_identity_that_is_none_differs(stored: str) -> None:
    assert difference(stored, IDENTITY)


@dataclass(frozen=True)
class _Mixed:
    names: tuple[str, ...] = ("a", "b")


def test_a_list_of_values_is_compared_as_a_whole() -> None:
    assert difference(json.dumps({"x": {"names": ["c"]}}), {"x": _Mixed(("c",))}) is None
    assert difference(json.dumps({"x": {"names": ["c"]}}), {"x": _Mixed()}) == "x.names was ['c'] and is ['a', 'b']"
