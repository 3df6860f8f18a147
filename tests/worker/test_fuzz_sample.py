"""A sample of `make test-fuzz`: every boundary refuses mutated inputs by typed errors only."""

import pytest

from tests.fuzz.boundaries import BOUNDARIES, Boundary, NotTypedError, run_fuzz


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda boundary: boundary.name)
def test_a_boundary_raises_nothing_but_its_errors(boundary: Boundary) -> None:
    result = run_fuzz(boundary, num_inputs=max(10, boundary.inputs // 200), seed=2)

    assert 0 <= result.refused <= result.inputs


def test_an_untyped_error_is_found() -> None:
    broken = Boundary(name="broken", inputs=1, make=lambda random: str(random.random()), decode=int)

    with pytest.raises(NotTypedError, match="broken: ValueError: invalid literal for int"):
        run_fuzz(broken, num_inputs=1, seed=1)


def test_a_full_test_has_a_million_inputs() -> None:
    assert sum(boundary.inputs for boundary in BOUNDARIES) >= 1_000_000
