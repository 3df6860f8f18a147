"""What a test expects to be there."""

from typing import TypeVar

ValueT = TypeVar("ValueT")


def known(value: ValueT | None) -> ValueT:
    """The value, which must not be None."""
    assert value is not None
    return value
