"""Kill and starve the swap at every system call that touches one of its files, by strace, and look at what is left.

The work runs in a fork of this process, which strace seizes before it begins: no interpreter starts, and the calls are
counted from the first one of the work. `python -m tests.faults.strace_sweep` does all of it and prints the table.
"""

import argparse
import ctypes
import gc
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.errors import RetrainError
from tests.faults import slot_scene
from tests.faults.slot_scene import Scene

STRACE = shutil.which("strace")
#: every call that opens, reads, changes, names, or makes durable
CALLS = (
    "openat",
    "read",
    "pread64",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fchmod",
    "fchown",
    "flistxattr",
    "fgetxattr",
    "fsetxattr",
    "rename",
    "renameat2",
    "unlink",
    "mkdir",
    "rmdir",
    "newfstatat",
    "statfs",
    "getdents64",
    "lseek",
    "flock",
    "fcntl",
    "close",
)
ERRORS = {
    "openat": ("EIO", "ENOSPC", "EACCES", "EROFS", "EMFILE", "EDQUOT"),
    "read": ("EIO",),
    "pread64": ("EIO",),
    "write": ("EIO", "ENOSPC", "EDQUOT", "EROFS"),
    "pwrite64": ("EIO", "ENOSPC", "EDQUOT"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "fdatasync": ("EIO", "ENOSPC"),
    "ftruncate": ("EIO",),
    "fchmod": ("EPERM", "EIO", "EROFS"),
    "fchown": ("EPERM", "EIO", "EROFS"),
    "flistxattr": ("EIO",),
    "fgetxattr": ("EIO",),
    "fsetxattr": ("EIO", "ENOSPC", "EDQUOT", "EPERM"),
    "mkdir": ("EIO", "ENOSPC", "EACCES", "EROFS", "EDQUOT"),
    "rmdir": ("EIO", "EACCES", "EROFS"),
    "rename": ("EIO", "ENOSPC", "EACCES", "EROFS", "EBUSY", "EDQUOT"),
    # EINVAL: a file system that cannot exchange
    "renameat2": ("EIO", "ENOSPC", "EACCES", "EROFS", "EBUSY", "EINVAL", "ENOSYS"),
    "unlink": ("EIO", "EACCES", "EROFS"),
    "newfstatat": ("EIO", "EACCES"),
    "statfs": ("EIO",),
    "getdents64": ("EIO",),
    "close": ("EIO",),
}
#: bytes that a write pretends to have written
SHORT_BYTES = (0, 5)
_KILLED, _FAILED, _CRASHED = -signal.SIGKILL, 1, 2
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)
#: what strace lets getppid() say: no process has this id, so who hears it is seized
_SEIZED = 2_000_000_000
#: points from one word about the progress to the next
_TELL_EVERY = 100


#: calls that change nothing on the disk: killed at one of them leaves what a kill at the next changing call leaves
_LOOKING = frozenset(
    {
        "read",
        "pread64",
        "flistxattr",
        "fgetxattr",
        "newfstatat",
        "statfs",
        "getdents64",
        "lseek",
        "flock",
        "fcntl",
        "close",
    }
)


@dataclass(frozen=True)
class Point:
    """One call of the work that touches its files: its name, and the how manieth of that name."""

    call: str
    number: int
    #: whether it changes what is on the disk
    changes: bool = True

    def __str__(self) -> str:
        """`rename 2`."""
        return f"{self.call} {self.number}"


@dataclass
class Tally:
    """What was tried, and every violation."""

    tried: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    #: told now and then how far it is
    progress: TextIO | None = None

    def note(self, fault: str, where: object, broken: list[str]) -> None:
        self.tried[fault] += 1
        if self.progress is not None and (total := self.tried.total()) % _TELL_EVERY == 0:
            print(
                f"{total} points, {len(self.violations)} violations; {fault} at {where}", file=self.progress, flush=True
            )
        self.violations += [f"{fault} at {where}: {one}" for one in broken]


def sweep(
    folder: Path,
    *,
    step: int,
    recovery_step: int,
    kinds: Sequence[str] = slot_scene.SCENES,
    progress: TextIO | None = None,
) -> Tally:
    """Every `step`th fault of the swap, and every `recovery_step`th kill of its recovery; 1 is all of them."""
    tally = Tally(progress=progress)
    for kind in kinds:
        bench = Bench(folder / kind.replace("-", ""), kind)
        for point in bench.points[::step]:
            bench.kill(point, tally)
        for error, points in errors_at(bench.points).items():
            for point in points[::step]:
                bench.fail(point, error, tally)
        for point in [one for one in bench.points if one.call == "write"][::step]:
            for size in SHORT_BYTES:
                bench.write_short(point, size, tally)
        bench.kill_recoveries(tally, step=recovery_step)
    return tally


def errors_at(points: list[Point]) -> dict[str, list[Point]]:
    """Where each error can be given: apart, so that a sample holds at least one of each."""
    found: dict[str, list[Point]] = {}
    for point in points:
        for error in ERRORS.get(point.call, ()):
            found.setdefault(error, []).append(point)
    return found


class Bench:
    """A scene that is set up again and again, always at the same place."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir(parents=True)
        self.scene = Scene(root=folder / "root", kind=kind)
        self._template, self._trace = folder / "template", folder / "trace"
        slot_scene.prepare(self.scene)
        shutil.copytree(self.scene.root, self._template)
        slot_scene.work(self.scene)  # whatever is imported late is imported now
        self._reset(self._template)
        self.points = self._points()
        #: what a kill left, once each, as files: by a digest of all that counts
        self._leavings: dict[str, tuple[Point, Path]] = {}

    def kill(self, point: Point, tally: Tally) -> None:
        self._reset(self._template)
        code, _ = self._run(point.call, f"signal=KILL:when={point.number}")
        assert code == _KILLED, (point, code)
        broken = self._broken_after_fault()
        self._keep(point)
        tally.note("SIGKILL in the swap", f"{self.scene.kind}, {point}", broken + self._after_restart(given_up=False))

    def fail(self, point: Point, error: str, tally: Tally) -> None:
        self._reset(self._template)
        code, said = self._run(point.call, f"error={error}:when={point.number}")
        broken = self._broken_after_fault()
        if code not in (0, _FAILED):
            broken.append(f"it ended with {code}: {said[-300:]}")
        tally.note(error, f"{self.scene.kind}, {point}", broken + self._after_restart(given_up=True))

    def write_short(self, point: Point, size: int, tally: Tally) -> None:
        self._reset(self._template)
        code, said = self._run("write", f"retval={size}:when={point.number}")
        broken = self._broken_after_fault()
        if code not in (0, _FAILED):
            broken.append(f"it ended with {code}: {said[-300:]}")
        tally.note(
            "short write", f"{self.scene.kind}, {point}, {size} bytes", broken + self._after_restart(given_up=True)
        )

    def kill_recoveries(self, tally: Tally, *, step: int) -> None:
        """For each different state that a kill has left: kill its recovery at every change, then restart once more."""
        for first, left in list(self._leavings.values()):
            self._reset(left)
            for point in [one for one in self._points() if one.changes][::step]:
                self._reset(left)
                code, _ = self._run(point.call, f"signal=KILL:when={point.number}")
                assert code in (_KILLED, 0), (first, point, code)
                broken = self._broken_after_fault()
                tally.note(
                    "SIGKILL in the recovery",
                    f"{self.scene.kind}, after {first}, {point}",
                    broken + self._after_restart(given_up=False),
                )

    @property
    def num_leavings(self) -> int:
        return len(self._leavings)

    def _broken_after_fault(self) -> list[str]:
        return slot_scene.broken_after_fault(self.scene) + slot_scene.undressed(self.scene)

    def _after_restart(self, *, given_up: bool) -> list[str]:
        code, said = forked(lambda: slot_scene.work(self.scene))
        if code not in (0, _FAILED):
            return [f"the restart ended with {code}: {said[-300:]}"]
        return (
            slot_scene.broken_after_restart(self.scene, may_be_given_up=given_up)
            + slot_scene.broken_afterwards(self.scene)
            + slot_scene.undressed(self.scene)
        )

    def _points(self) -> list[Point]:
        """The calls of the work on what stands there now; it is done then."""
        code, said = forked(lambda: slot_scene.work(self.scene), trace=CALLS, options=("-y", "-o", str(self._trace)))
        assert code == 0, said
        counts: Counter[str] = Counter()
        found = []
        for line in self._trace.read_text(errors="replace").splitlines():
            if named := re.match(r"(\w+)\(", line):
                counts[named[1]] += 1
                if str(self.scene.root) in line:
                    is_look = named[1] in _LOOKING or (named[1] == "openat" and "O_CREAT" not in line)
                    found.append(Point(named[1], counts[named[1]], changes=not is_look))
        return found

    def _run(self, call: str, fault: str) -> tuple[int, str]:
        return forked(
            lambda: slot_scene.work(self.scene),
            trace=(call,),
            options=("-e", f"inject={call}:{fault}", "-o", str(self._trace)),
        )

    def _reset(self, source: Path) -> None:
        shutil.rmtree(self.scene.root, ignore_errors=True)
        shutil.copytree(source, self.scene.root, symlinks=True)

    def _keep(self, point: Point) -> None:
        digest = _digest_of(self.scene)
        if digest not in self._leavings:
            kept = self._template.with_name(f"left{len(self._leavings)}")
            shutil.copytree(self.scene.root, kept)
            self._leavings[digest] = (point, kept)


def _digest_of(scene: Scene) -> str:
    """Of what a recovery can see: names (a random part left out), bytes, and what the state database holds."""
    seen = []
    copy = scene.root.with_name("digest")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(scene.root, copy)
    with StateDb(copy / "state/state.db") as store:
        seen.append(
            json.dumps([str(one) for one in (*store.history(9), *store.deployments(9), store.waiting_slot_request())])
        )
    for path in sorted(scene.root.rglob("*")):
        if path.is_file() and path.parent.name != "state":
            name = re.sub(r"[0-9a-f]{16}\.tmp$", "tmp", str(path))
            # of a temporary, recovery sees the name only
            content = b"" if name.endswith("tmp") else path.read_bytes()
            seen.append(f"{name} {hashlib.sha256(content).hexdigest()}")
    shutil.rmtree(copy)
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()


# ---------------------------------------------------------------- the fork


def forked(work: Callable[[], None], *, trace: Sequence[str] = (), options: Sequence[str] = ()) -> tuple[int, str]:
    """Run `work` in a fork, from its first call on under strace if there are calls to trace: exit code, what it said.

    0 done, 1 a RetrainError, 2 any other exception, negative: the signal.
    """
    with tempfile.TemporaryFile() as said:
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            _live(work, said.fileno(), tell, is_traced=bool(trace))
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        if trace:
            tracer = subprocess.run(
                [
                    str(STRACE),
                    "-qq",
                    "-e",
                    "signal=none",
                    "-e",
                    f"trace={','.join((*trace, 'getppid'))}",
                    "-e",
                    f"inject=getppid:retval={_SEIZED}",
                    *options,
                    "-p",
                    str(pid),
                ],
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:  # strace ends after it, or fails
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise OSError(f"strace cannot attach: {tracer.stderr}")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        return status, said.read().decode(errors="replace")


def _live(work: Callable[[], None], said: int, tell: int, *, is_traced: bool) -> None:
    """The worker: wait until strace answers it, work, and end without a word to the parent's interpreter."""
    code = _CRASHED
    try:
        gc.disable()  # what others have left open is not closed in the middle, which would shift the count of calls
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
        os.dup2(said, 2)
        os.write(tell, b"\n")
        os.close(tell)
        while is_traced and os.getppid() != _SEIZED:
            time.sleep(0.001)
        work()
        code = 0
    except RetrainError:
        code = _FAILED
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _rows(tally: Tally) -> Iterator[str]:
    yield "| fault | points tried | violations |"
    yield "|---|---:|---:|"
    for fault, tried in sorted(tally.tried.items(), key=lambda item: (not item[0].startswith("SIG"), item[0])):
        broken = sum(one.startswith(f"{fault} at") for one in tally.violations)
        yield f"| {fault} | {tried} | {broken} |"
    yield f"| **all** | **{sum(tally.tried.values())}** | **{len(tally.violations)}** |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="try one fault of the swap in so many (default 1: all)")
    parser.add_argument("--recovery-step", type=int, default=1, help="the same for kills of a recovery")
    parser.add_argument("--only", choices=slot_scene.SCENES, help="one of the two scenes")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="retrain-sweep-") as folder:
        tally = sweep(
            Path(folder),
            step=arguments.step,
            recovery_step=arguments.recovery_step,
            kinds=[arguments.only] if arguments.only else slot_scene.SCENES,
            progress=sys.stderr,
        )
    print("\n".join(_rows(tally)))
    print("\n".join(tally.violations))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
