"""Every benchmark in a quick form, beside the last figures in docs/benchmarks.md: `python benchmarks/all.py [NAME]`.

Each one runs alone, as a process of its own, for at most --limit seconds; all of them take less than 15 minutes on two
quiet cores. A quick figure is a smoke test: it says that something moved, and the full command by how much. `--write`
puts what was measured into the section "Quick run" of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs/benchmarks.md"
#: a change beyond it is marked: runs of the same code differ by as much
NOISE = 0.25
#: the section that `--write` replaces
SECTION = re.compile(r"(<!-- quick run -->\n).*?(<!-- /quick run -->)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d[\d,]*\.?\d*")


@dataclass(frozen=True, kw_only=True)
class Quick:
    """The quick form of a benchmark, and what of its tables is compared; always its seconds."""

    options: str = ""
    columns: tuple[str, ...] = ()
    #: leading columns that name a row
    num_names: int = 1


QUICK = {
    "weight": Quick(columns=("MB installed",)),
    "idle": Quick(options="--quick", columns=("value",)),
    "swap": Quick(options="--swaps 30", columns=("p50 ms",)),
    "events": Quick(options="--events 5000 --pending 10000 --rounds 1 --turns 20", columns=("measured",)),
    "followers": Quick(options="--followers 20 --rounds 2 --idle 3", columns=("20 followers",)),
    "event_faults": Quick(),
    "live_writer": Quick(options="--rows 60000 --seconds 3", columns=("median ms",), num_names=2),
    "neighbour": Quick(options="--seconds 4", columns=("p50", "p99")),
    "scale": Quick(options="--rows 30000 --processes 1", columns=("peak MB",), num_names=2),
    "ingest": Quick(options="--rows 6000 100000 --repeats 1 --no-postgres", columns=("of the floor",), num_names=3),
    "discover": Quick(options="--files 5000 --databases 10 --rows 5000", columns=("processor s", "peak MB")),
    "training": Quick(options="--only paper --rounds 2", columns=("ratio",), num_names=2),
    "run": Quick(columns=("processor s",), num_names=2),
    "learning": Quick(
        options="--seeds 1 --markets demo --learners paper engine", columns=("holdout AUC", "ECE"), num_names=2
    ),
    "drift": Quick(options="--seeds 4 --shift-seeds 2"),
    "gates": Quick(
        options="--markets 20 --years 0 --changes 0 --trainings 0 --worlds 0", columns=("approved by this program",)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(QUICK)} (default: all)")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds for one benchmark")
    parser.add_argument("--write", action="store_true", help="renew the figures in docs/benchmarks.md")
    asked = parser.parse_args()
    documented = figures_in(next(SECTION.finditer(DOCS.read_text()))[0], Quick(columns=("value",)))
    found: dict[str, float] = {}
    print("| figure | docs | now | change |\n|---|---:|---:|---:|")
    for name in asked.names or QUICK:
        began = time.monotonic()
        try:
            output = output_of(name, limit=asked.limit)
        except subprocess.SubprocessError as error:
            print(f"| {name}: {type(error).__name__} | | | |", flush=True)
            continue
        figures = {**figures_in(output, QUICK[name]), "seconds": round(time.monotonic() - began)}
        now = {f"{name}: {figure}": value for figure, value in figures.items()}
        for figure, value in now.items():
            print(row(figure, documented.get(figure), value), flush=True)
        found |= now
    if asked.write:
        table = "".join(f"| {figure} | {value:g} |\n" for figure, value in (documented | found).items())
        section = f"| figure | value |\n|---|---:|\n{table}"
        DOCS.write_text(SECTION.sub(lambda match: f"{match[1]}{section}{match[2]}", DOCS.read_text()))


def output_of(name: str, *, limit: float) -> str:
    """What the quick form prints."""
    command = [sys.executable, str(HERE / f"{name}.py"), *QUICK[name].options.split()]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, timeout=limit
    ).stdout


def figures_in(text: str, quick: Quick) -> dict[str, float]:
    """The first number in each cell of the compared columns, by the names of its row and the column."""
    found: dict[str, float] = {}
    header: list[str] = []
    lines = [line.strip() for line in text.splitlines()]
    for place, line in enumerate(lines):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            continue
        if set(line) <= set("|-: "):
            header = [cell.strip() for cell in lines[place - 1].strip("|").split("|")]
            continue
        label = " / ".join(cells[: quick.num_names])
        for column, cell in zip(header, cells, strict=False):
            if column in quick.columns and (number := _NUMBER.search(cell)):
                found[f"{label}, {column}" if len(quick.columns) > 1 else label] = float(number[0].replace(",", ""))
    return found


def row(figure: str, before: float | None, now: float) -> str:
    """One line; a change beyond the noise is bold."""
    if before is None:
        return f"| {figure} | | {now:g} | new |"
    change = now / before - 1 if before else 0.0
    shown = f"{change:+.0%}"
    return f"| {figure} | {before:g} | {now:g} | {f'**{shown}**' if abs(change) > NOISE else shown} |"


if __name__ == "__main__":
    main()
