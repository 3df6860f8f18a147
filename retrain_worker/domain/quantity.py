"""Numbers with a unit: durations like 90min, 12h, 3d; sizes like 512M, 2G; shares like 15%."""

from __future__ import annotations

import re
from datetime import timedelta

_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([A-Za-z%]+)")
_SECONDS = {
    name: seconds
    for names, seconds in ((("s", "sec"), 1), (("min", "m"), 60), (("h",), 3600), (("d", "days"), 86_400))
    for name in names
}
_BYTES = {
    f"{letter}{rest}": 1 << power
    for letter, power in zip("kmgt", (10, 20, 30, 40), strict=True)
    for rest in ("", "b", "ib")
}
#: end of a setting's name -> the units that its value may have, and how many of the smallest its own unit has
_UNITS: dict[str, tuple[dict[str, int], int]] = {
    "_S": (_SECONDS, 1),
    "_MIN": (_SECONDS, 60),
    "_H": (_SECONDS, 3600),
    "_HOURS": (_SECONDS, 3600),
    "_DAYS": (_SECONDS, 86_400),
    "_MB": (_BYTES, 1 << 20),
}


def as_number(text: str, *, name: str) -> str:
    """`text` as a number in the unit that `name` ends with; unchanged where it has no unit that fits.

    >>> as_number("36h", name="TRAIN_WINDOW_DAYS"), as_number("2G", name="WORKER_MEMORY_MB"), as_number("15%", name="X")
    ('1.5', '2048', '0.15')
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return text
    number, unit = float(found[1]), found[2].lower()
    if unit == "%":
        return f"{number / 100:.12g}"
    units, own = next((known for end, known in _UNITS.items() if name.endswith(end)), ({}, 1))
    return f"{number * units[unit] / own:.12g}" if unit in units else text


def duration_of(text: str) -> timedelta:
    """`90min`, `12h`, `3d`. Raises ValueError."""
    found = _NUMBER.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS.get(found[2].lower(), 0) if found else 0
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a duration like 90min, 12h or 3d")
    return timedelta(seconds=seconds)
