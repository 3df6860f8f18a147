"""Markdown spans, tables and lists whose content cannot change the structure of the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

#: further rows of a table are only counted; the JSON has them all
MAX_ROWS = 40
NOTHING = "Nothing found."


def size_of(count: float) -> str:
    """Bytes with a unit, like `1.3 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def code(text: str) -> str:
    """`text` as a code span that it cannot end, inside a table too."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{blank}{text}{blank}{fence}".replace("|", "\\|") if text else ""


def table(header: str, rows: Iterable[Sequence[str]], *, most: int = MAX_ROWS) -> Iterator[str]:
    """A table; without rows, the text NOTHING."""
    cells = list(rows)
    if not cells:
        yield from ("", NOTHING)
        return
    names = header.split("|")
    yield from ("", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}")
    yield from (f"| {' | '.join(row)} |" for row in cells[:most])
    if len(cells) > most:
        yield f"\nand {len(cells) - most:,} more, all in the JSON beside this file"


def shares(name: str, counts: Mapping[str, int], total: int) -> Iterator[str]:
    """A table of counts with their shares of `total`."""
    yield from table(
        f"{name}|Rows|Share",
        ((code(value) or "(empty)", f"{count:,}", f"{count / max(total, 1):.1%}") for value, count in counts.items()),
    )


def pairs(header: str, values: Mapping[str, str]) -> Iterator[str]:
    """A table of names and values."""
    yield from table(header, ((code(name), code(value) or "(empty)") for name, value in values.items()))


def bullets(title: str, lines: Sequence[str], total: int = 0) -> Iterator[str]:
    """A titled list; nothing without lines."""
    if lines:
        yield from ("", f"**{title}**:", "", *(f"- {plain(line)}" for line in lines[:MAX_ROWS]))
        if max(total, len(lines)) > MAX_ROWS:
            yield f"- and {max(total, len(lines)) - MAX_ROWS:,} more"


def plain(text: str) -> str:
    """`text` with its markup characters escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def few(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(code(name) for name in names[:most]) + more


def count(count: int | None) -> str:
    """A number, or `not counted`."""
    return "not counted" if count is None else f"{count:,}"


def instant(instant: datetime | None) -> str:
    """An instant to the minute."""
    return f"{instant:%Y-%m-%d %H:%M} UTC" if instant else ""
