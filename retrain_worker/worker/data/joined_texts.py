"""A column of texts kept as the one text that the database made of it: a Python object less for every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, overload


class JoinedTexts(Sequence[Any]):
    """Texts that hold no newline, with one seam between two of them; split when somebody asks for a single one.

    `text`: all of them, `seam`: ends with a newline.
    """

    def __init__(self, text: str, *, seam: str) -> None:
        self.text = text
        self.seam = seam
        self._count = text.count("\n") + 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._texts)

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        return self._texts[place]

    @property
    def width(self) -> int | None:
        """How long each text is, or None when they differ."""
        width = self.text.find(self.seam)
        if width < 0:
            return len(self.text)
        step = width + len(self.seam)
        # every step ends with a newline, and there are no more of them: so no text is shorter or longer
        is_even = len(self.text) == step * self._count - len(self.seam) and not self.text[step - 1 :: step].strip("\n")
        return width if is_even else None

    @cached_property
    def _texts(self) -> list[str]:
        return self.text.split(self.seam)
