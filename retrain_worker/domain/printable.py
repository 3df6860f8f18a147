"""Text from outside (file names, cells, error messages) as one line that is safe to print and to store as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def printable(text: object) -> str:
    r"""`text` with escapes in the place of control and invisible characters and of bytes that are not UTF-8.

    >>> printable("a\nb\udcff")
    'a\\nb\\xff'
    """
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def printable_texts(value: Any) -> Any:
    """`value`, made of JSON's types, with every text in it printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_texts(key): printable_texts(each) for key, each in value.items()}
    return [printable_texts(each) for each in value] if isinstance(value, list | tuple) else value


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as os.fsdecode represents it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
