"""Threads convert values of one type at the same time (msgspec alone ends the process with SIGSEGV)."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from retrain_worker import typed_json

NUM_TYPES = 100
NUM_THREADS = 4


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    number: int
    text: str | None = None


ANNOTATIONS = {
    **{f"inner_{i}": "Inner" for i in range(3)},
    **{f"colour_{i}": "Colour | None" for i in range(3)},
    **{f"at_{i}": "datetime | None" for i in range(3)},
    **{f"texts_{i}": "tuple[str, ...]" for i in range(3)},
}
PLAIN = {"inner": {"number": 1}, "colour": "red", "at": "2026-01-01T00:00:00Z", "texts": ["a"]}
TYPED = {"inner": Inner(1), "colour": Colour.RED, "at": datetime(2026, 1, 1, tzinfo=UTC), "texts": ("a",)}


def convert_in_threads() -> None:
    sys.setswitchinterval(1e-6)
    for _ in range(NUM_TYPES):
        kind: Any = dataclass(type("Fresh", (), {"__annotations__": ANNOTATIONS, "__module__": __name__}))
        values = {name: PLAIN[name.partition("_")[0]] for name in ANNOTATIONS}
        expected = kind(**{name: TYPED[name.partition("_")[0]] for name in ANNOTATIONS})
        begin = threading.Barrier(NUM_THREADS)
        found: list[Any] = []

        def convert() -> None:
            begin.wait()  # noqa: B023
            found.append(typed_json.convert(values, kind))  # noqa: B023

        threads = [threading.Thread(target=convert) for _ in range(NUM_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * NUM_THREADS


def test_threads_convert_values_of_a_type_that_none_has_converted_before() -> None:
    # in a process of its own: what it guards against ends the process
    program = f"from {__name__} import convert_in_threads; convert_in_threads()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
