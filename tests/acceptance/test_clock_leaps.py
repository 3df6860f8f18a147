"""The wall clock leaps by years, forward and back: the daemon goes on, and its memory does not grow."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartsDaemon, wait_for

DAY = 86_400
KB_PER_MB = 1024
#: adds to the wall clock of a process the seconds that a file holds (libfaketime 0.9.10 breaks absolute sleeps)
SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *found) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, found);
    FILE *file;
    long long shift;
    if (clock == CLOCK_REALTIME && (file = fopen(getenv("SHIFT_FILE"), "r"))) {
        if (fscanf(file, "%lld", &shift) == 1) found->tv_sec += shift;
        fclose(file);
    }
    return result;
}
"""


@pytest.fixture(scope="module")
def shifted_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=SHIFTED_CLOCK, text=True, check=True)
    return library


def peak_memory_kb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_leaps_of_the_clock_cost_nothing(
    daemon_of: StartsDaemon, hopeless: Path, tmp_path: Path, shifted_clock: Path
) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0")
    daemon = daemon_of(tmp_path / "home", hopeless, MIN_SAMPLES=1_000_000, LD_PRELOAD=shifted_clock, SHIFT_FILE=shift)
    daemon.wait_for_event("run_finished")
    before = peak_memory_kb(daemon.process.pid)

    for number, days in enumerate((30, 3650, -30, 0), start=1):
        shift.write_text(str(days * DAY))
        wait_for(lambda: daemon.events().count("clock_jumped") >= number, what=f"a leap by {days} days")  # noqa: B023

    assert peak_memory_kb(daemon.process.pid) < before + 50 * KB_PER_MB
    assert daemon.stop() == 0
