"""The wall clock leaps by years, forward and back, and the machine is suspended: the daemon goes on unharmed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import StartsDaemon, retrain_worker, wait_for

HOUR, DAY = 3_600, 86_400
KB_PER_MB = 1024
#: adds to the wall clock of a process, and to its clock since boot, the two numbers of seconds that a file holds
#: (libfaketime 0.9.10 breaks absolute sleeps)
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
    long long wall = 0, boot = 0;
    if ((clock == CLOCK_REALTIME || clock == CLOCK_BOOTTIME) && (file = fopen(getenv("SHIFT_FILE"), "r"))) {
        if (fscanf(file, "%lld %lld", &wall, &boot) == 2) found->tv_sec += clock == CLOCK_REALTIME ? wall : boot;
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
    shift.write_text("0 0")
    daemon = daemon_of(tmp_path / "home", hopeless, MIN_SAMPLES=1_000_000, LD_PRELOAD=shifted_clock, SHIFT_FILE=shift)
    daemon.wait_for_event("run_finished")
    before = peak_memory_kb(daemon.process.pid)

    for number, days in enumerate((30, 3650, -30, 0), start=1):
        shift.write_text(f"{days * DAY} 0")
        reason = f"leap number {number}"
        asked = retrain_worker("trigger", "--home", tmp_path / "home", "--force", "--reason", reason)
        assert asked.returncode == 0, asked.stderr
        wait_for(
            lambda: [line for line in daemon.lines() if line["event"] == "run_started" and reason in line["message"]],  # noqa: B023
            what=f"a run after a leap by {days} days",
        )

    assert peak_memory_kb(daemon.process.pid) < before + 50 * KB_PER_MB
    assert daemon.stop() == 0


def test_a_night_in_suspend_is_no_job_that_hangs_and_one_run_that_is_due(
    notify_socket: tuple[Any, list[str], Any],
    daemon_of: StartsDaemon,
    hopeless: Path,
    tmp_path: Path,
    shifted_clock: Path,
) -> None:
    """After it, CLOCK_REALTIME and CLOCK_BOOTTIME are later by the night, and CLOCK_MONOTONIC is not."""
    address, heard, _ = notify_socket
    shift = tmp_path / "shift"
    shift.write_text("0 0")
    daemon = daemon_of(
        tmp_path / "home",
        hopeless,
        MIN_SAMPLES=1_000_000,
        RETRAIN_INTERVAL_H=6,
        LD_PRELOAD=shifted_clock,
        SHIFT_FILE=shift,
        NOTIFY_SOCKET=address,
        WATCHDOG_USEC=2_000_000,
    )
    daemon.wait_for_event("run_finished")

    shift.with_name("new").write_text(f"{8 * HOUR} {8 * HOUR}")
    num_pings = heard.count("WATCHDOG=1")
    shift.with_name("new").replace(shift)
    wait_for(lambda: daemon.events().count("run_finished") == 2, what="the run that is due")
    wait_for(lambda: heard.count("WATCHDOG=1") >= num_pings + 5, what="pings")

    assert daemon.stop() == 0
    events = daemon.events()
    assert not {"job_stuck", "unexpected_error"} & set(events)
    assert events.count("run_started") == 2
