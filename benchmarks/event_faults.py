"""Every Redis fault (rows 25 to 38), with counts: `python benchmarks/event_faults.py`. About 30 s.

Then the streams before and after a FLUSHALL and an old RDB.
"""

import re
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from retrain_worker.redis_client import entries_in
from tests.faults.event_scenarios import SCENARIOS, Scene, play


def main() -> int:
    print(
        "| row and fault | enqueued | in the stream | of them distinct | handled | of them distinct | in order "
        "| logged |\n|---|---:|---:|---:|---:|---:|---|---|"
    )
    num_bad = 0
    for name in SCENARIOS:
        tally = play(name)
        is_good = (
            tally.enqueued == tally.in_stream == tally.distinct == tally.handled == tally.handled_distinct
            and tally.in_order
        )
        num_bad += not is_good
        said = "; ".join(_short(text) for text in (*tally.problems, *tally.notices)) or "nothing"
        print(
            f"| {name} | {tally.enqueued} | {tally.in_stream} | {tally.distinct} | {tally.handled} | "
            f"{tally.handled_distinct} | {'yes' if tally.in_order else 'NO'} | {said} |",
            flush=True,
        )
    print(f"\n{len(SCENARIOS)} faults, {num_bad} with a loss, a repetition or a wrong order")
    for name in ("30 FLUSHALL", "29 Redis is killed with snapshots only: an old RDB is loaded"):
        _show_streams(name)
    return 1 if num_bad else 0


def _show_streams(name: str) -> None:
    """Print the stream of promotions before the fault and after the relay's next pass."""
    print(f"\n{name}: quantum:stream:model.promoted (stream id: event id), before the fault, and at the end")
    shown: list[list[str]] = []
    real_read = Scene.read

    def read_and_look(scene: Scene) -> None:
        real_read(scene)
        entries = entries_in(scene.server.client().xrange("quantum:stream:model.promoted"))
        shown.append([f"{stream_id}: {fields[b'event_id'].decode()[:8]}" for stream_id, fields in entries])

    with patch.object(Scene, "read", read_and_look):
        play(name)
    before, after = shown[0], shown[-1]
    for number, line in enumerate(after):
        was = before[number] if number < len(before) else ""
        again = was.split(": ")[-1] == line.split(": ")[-1]
        mark = "" if line == was else "  <- published again" if again else "  <- new"
        print(f"  {was:<34} {line}{mark}")


def _short(text: str) -> str:
    """The message without the address of the server."""
    return re.sub(r" connecting to \S+\.", ":", re.sub(r" at (unix|redis\+sentinel)://\S*[^\s:]", "", text))


if __name__ == "__main__":
    sys.exit(main())
