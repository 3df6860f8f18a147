"""Figures of matplotlib as inline SVG in the colours of the page (CSS variables): one drawing is both light and dark.

Every colour of PALETTE stands for a variable and is replaced in the written SVG. Text stays text: the browser sets it
in the page's font. The figures are made without pyplot, which keeps global state and takes longer to import.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from retrain_worker.report.formatting import plain

#: CSS variable -> the colour that stands for it
PALETTE = {
    name: f"#0000f{place:x}"
    for place, name in enumerate(
        ("ink", "soft", "line", "candidate", "incumbent", "good", "bad", "open", "shade"), start=1
    )
}
#: inches at 72 pixels; a chart is as wide as a phone
SIZE = (5.0, 3.2)

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a symbol may hold a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": PALETTE["line"],
    "axes.labelcolor": PALETTE["soft"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlecolor": PALETTE["soft"],
    "figure.facecolor": "none",
    "grid.color": PALETTE["line"],
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.8,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["line"],
    "ytick.color": PALETTE["line"],
    "xtick.labelcolor": PALETTE["soft"],
    "ytick.labelcolor": PALETTE["soft"],
    "path.simplify_threshold": 0.3,
}
_LONGEST_LABEL = 18
_NUMBERS = re.compile(r' (?:d|x|y|points|transform)="[^"]*"')
_DECIMALS = re.compile(r"(\.\d)\d+")


@dataclass(frozen=True, kw_only=True)
class Key:
    """A line of the legend: how something is drawn, and what it is."""

    #: a class of the style sheet: candidate | incumbent | baseline | good | bad | soft
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn chart with its text."""

    title: str
    caption: str
    svg: Markup
    keys: tuple[Key, ...] = ()


class Canvas:
    """One figure with its axes, before it is written."""

    def __init__(self, rows: int, columns: int, *, size: tuple[float, float], **options: Any) -> None:
        self.figure = Figure(figsize=size, layout="constrained")
        self._backend = FigureCanvasSVG(self.figure)
        self.axes: list[Axes] = list(self.figure.subplots(rows, columns, squeeze=False, **options).flat)

    def svg(self, label: str) -> Markup:
        """The figure as inline SVG; `label` is its text for a screen reader."""
        file = io.StringIO()
        # not Figure.savefig, which lays the figure out twice
        self._backend.print_svg(file, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        return Markup(_inlined(file.getvalue(), label))  # noqa: S704 - matplotlib escapes text


@contextmanager
def canvas(
    name: str, rows: int = 1, columns: int = 1, *, size: tuple[float, float] = SIZE, **options: Any
) -> Iterator[Canvas]:
    """A figure with `rows` x `columns` axes. `name` makes the ids of its definitions unique on the page."""
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that only the browser's fonts have
        yield Canvas(rows, columns, size=size, **options)


def charts_of(
    builders: Iterable[Callable[[], Chart | None]], *, failed: Callable[[Exception], None]
) -> tuple[Chart, ...]:
    """The charts that can be drawn; `failed` gets the error of another, without which the page is better than none."""
    found = []
    for builder in builders:
        try:
            if (chart := builder()) is not None:
                found.append(chart)
        except Exception as error:
            failed(error)
    return tuple(found)


def short(text: str) -> str:
    """A name from outside as the label of a tick."""
    line = plain(text)
    return line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 1] + "…"


def quiet_fonts() -> None:
    """Keep matplotlib from logging about fonts, of which the page needs none."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _inlined(text: str, label: str) -> str:
    """The element alone, without what names the file, of limited precision, with the page's colours."""
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', body)
    assert box is not None, "matplotlib writes the box"
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font: (?:\w+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = _NUMBERS.sub(lambda found: _DECIMALS.sub(r"\1", found[0]), body)
    for name, colour in PALETTE.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}">{body}'
