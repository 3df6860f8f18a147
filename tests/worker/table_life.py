"""A trading table's life for tests of the watermark, whatever the database, and a model of what runs find new in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from retrain_worker.worker.data.pull import pull
from tests.worker.trading_database import make_row, open_row, request_for

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "fill", "correct profit", "correct class", "withdraw", "touch", "late", "pull", "commit"]
        ),
        st.integers(1, 4),
    ),
    min_size=5,
    max_size=40,
)


class Life:
    """`upsert` commits a row. Each pull is a run of its own: as after a restart, only the watermark's file is kept."""

    def __init__(self, folder: Path, url: str, upsert: Callable[[dict[str, Any]], None]) -> None:
        self.folder, self.url, self.upsert = folder, url, upsert
        self.rows: dict[int, dict[str, Any]] = {}
        self.seen: dict[int, Any] = {}
        self.watermark: Path | None = None
        self.runs = 0

    def write(self, row: dict[str, Any]) -> None:
        self.rows[row["id"]] = row
        self.upsert(row)

    def do(self, step: str, number: int) -> None:
        old = self.rows.get(number)
        if step == "open" and old is None:
            self.write(open_row(number))
        elif step == "late" and -number not in self.rows:  # committed late, under an id smaller than all
            self.write(make_row(1000 + number, id=-number))
        elif step in ("pull", "commit"):
            self.pull(commits=step == "commit")
        elif old is not None and step == "fill" and old["outcome_known"] == 0:
            self.write(make_row(number))
        elif old is not None and old["outcome_known"] and step.startswith(("correct", "withdraw", "touch")):
            flipped = "LOSS" if old["target_class"] == "WIN" else "WIN"
            self.write(
                old
                | {
                    "correct profit": {"realized_pnl": old["realized_pnl"] * 1.5},
                    "correct class": {"target_class": flipped, "realized_pnl": -old["realized_pnl"]},
                    "withdraw": dict.fromkeys(["target_class", "realized_pnl"], None) | {"outcome_known": 0},
                    "touch": {"updated_at": "2026-01-05 00:00:00.000000", "model_version": "v9"},
                }[step]
            )

    def pull(self, *, commits: bool) -> None:
        self.runs += 1
        run_dir = self.folder / f"run{self.runs}"
        result = pull(request_for(run_dir, watermark=self.watermark), self.url, lambda _: None)
        rows = [row for row in self.rows.values() if row["outcome_known"]]
        known = {row["id"]: (row["target_class"], row["realized_pnl"]) for row in rows}
        assert result.labelled == len(known)
        assert result.new_labelled == sum(self.seen.get(number) != told for number, told in known.items())
        if commits:
            self.watermark, self.seen = run_dir / "snapshot.parquet", known
