"""Power loss on a model of a file system: the real system calls of the swap, recorded by strace, and every crash state.

What was not fsynced may be lost, torn, or zeros, in any order, file by file and write by write; a name that was made,
renamed, exchanged or removed may not be durable before its directory was fsynced, in any order either. One rename is
atomic. (After ALICE: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.) Each state is built on a real
directory, restarted once, and looked at. `python -m tests.faults.power_loss` does all of it and prints the table.
"""

import argparse
import hashlib
import itertools
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import slot_scene
from tests.faults.slot_scene import Scene
from tests.faults.strace_sweep import forked

_CALLS = ("openat", "close", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "renameat2", "unlink")
_LINE = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
#: as many states of one instant are tried exhaustively; beyond, the systematic ones and so many at random
_EXHAUSTIVE, _AT_RANDOM = 4096, 200
#: SQLite builds it anew; it is never durable
_VOLATILE = "-shm"


@dataclass
class Inode:
    """A file's bytes: what is durable, and the changes since, each with its place in time."""

    durable: bytes = b""
    pending: list["Change"] = field(default_factory=list)


@dataclass(frozen=True)
class Change:
    """`data` at `offset`; or, without data, a new length of `offset` bytes."""

    offset: int
    data: bytes | None

    def fates(self) -> tuple["Change | None", ...]:
        """Lost, done, torn, or a length without its bytes."""
        if self.data is None:
            return (None, self)
        half = self.data[: len(self.data) // 1024 * 512 or len(self.data) // 2]
        return (None, self, Change(self.offset, half), Change(self.offset, bytes(len(self.data))))

    def applied_to(self, content: bytes) -> bytes:
        if self.data is None:
            return content[: self.offset].ljust(self.offset, b"\0")
        return content[: self.offset].ljust(self.offset, b"\0") + self.data + content[self.offset + len(self.data) :]


#: one change of names: name -> inode, or None: gone
Naming = dict[str, Inode | None]


@dataclass
class Disk:
    """What stands on it, and what might: the model."""

    inodes: list[Inode] = field(default_factory=list)
    durable_names: dict[str, Inode] = field(default_factory=dict)
    names: dict[str, Inode] = field(default_factory=dict)
    #: by directory
    pending_names: dict[str, list[Naming]] = field(default_factory=dict)

    @staticmethod
    def of(root: Path) -> "Disk":
        disk = Disk()
        for path in sorted(root.rglob("*")):
            if path.is_file():
                disk.names[str(path)] = disk.durable_names[str(path)] = disk._new(path.read_bytes())
        return disk

    def created(self, path: str) -> Inode:
        inode = self._new(b"")
        self._name(path, {path: inode})
        return inode

    def renamed(self, old: str, new: str) -> None:
        self._name(new, {old: None, new: self.names[old]})

    def exchanged(self, one: str, other: str) -> None:
        self._name(one, {one: self.names[other], other: self.names[one]})

    def unlinked(self, path: str) -> None:
        self._name(path, {path: None})

    def synced(self, inode: Inode) -> None:
        for change in inode.pending:
            inode.durable = change.applied_to(inode.durable)
        inode.pending.clear()

    def directory_synced(self, path: str) -> None:
        for naming in self.pending_names.pop(path, ()):
            _apply(naming, self.durable_names)

    def crash_states(self, chance: random.Random) -> Iterator[dict[str, bytes]]:
        """Every file by path, as a power loss at this instant may leave it."""
        changing = [inode for inode in self.inodes if inode.pending]
        namings = [naming for pending in self.pending_names.values() for naming in pending]
        fates = [change.fates() for inode in changing for change in inode.pending]
        choices: list[tuple[object, ...]] = [(None, naming) for naming in namings]
        for chosen in _combinations([*choices, *fates], chance):
            names = dict(self.durable_names)
            for naming in chosen[: len(namings)]:
                if naming is not None:
                    _apply(naming, names)
            left = iter(chosen[len(namings) :])
            contents = {id(inode): inode.durable for inode in self.inodes}
            for inode in changing:
                for change in itertools.islice(left, len(inode.pending)):
                    if change is not None:
                        contents[id(inode)] = change.applied_to(contents[id(inode)])
            yield {path: contents[id(inode)] for path, inode in names.items() if not path.endswith(_VOLATILE)}

    def _new(self, content: bytes) -> Inode:
        self.inodes.append(Inode(durable=content))
        return self.inodes[-1]

    def _name(self, path: str, naming: Naming) -> None:
        _apply(naming, self.names)
        self.pending_names.setdefault(str(Path(path).parent), []).append(naming)


def _apply(naming: Naming, names: dict[str, Inode]) -> None:
    for path, inode in naming.items():
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _combinations(choices: Sequence[tuple[Any, ...]], chance: random.Random) -> Iterator[tuple[Any, ...]]:
    """All of them, or where they are too many: all lost, all done, each prefix, each alone, each left out, random."""
    num_all = 1
    for options in choices:
        num_all *= len(options)
    if num_all <= _EXHAUSTIVE:
        yield from itertools.product(*choices)
        return
    done, lost = [options[1] for options in choices], [options[0] for options in choices]
    for place, options in enumerate(choices):
        for option in options:
            yield (*done[:place], option, *lost[place + 1 :])
            yield (*lost[:place], option, *lost[place + 1 :])
            yield (*done[:place], option, *done[place + 1 :])
    for _ in range(_AT_RANDOM):
        yield tuple(chance.choice(options) for options in choices)


# ---------------------------------------------------------------- the recorded calls


def recorded(scene: Scene, trace: Path) -> list[str]:
    """The calls of the whole work, with every byte; it is done then."""
    code, said = forked(
        lambda: slot_scene.work(scene), trace=_CALLS, options=("-xx", "-s", "1000000", "-o", str(trace))
    )
    assert code == 0, said
    return trace.read_text().splitlines()


def replayed(disk: Disk, lines: Sequence[str], root: Path) -> Iterator[str]:
    """Do each call to the model; the name of one that changed something of ours, after it."""
    files: dict[int, tuple[str, Inode | None]] = {}
    positions: dict[int, int] = {}
    for line in lines:
        if (found := _LINE.match(line)) is None or int(found[3]) < 0:
            continue
        call, said, result = found[1], found[2], int(found[3])
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', said)]
        fd = int(head[0]) if (head := re.match(r"\d+", said)) else -1
        if call == "openat":
            path = texts[0].decode()
            files.pop(result, None)
            if not path.startswith(str(root)):
                continue
            positions[result] = 0
            is_new = path not in disk.names
            if is_new and "O_CREAT" not in said:
                files[result] = (path, None)  # a directory
                continue
            inode = disk.created(path) if is_new else disk.names[path]
            files[result] = (path, inode)
            if "O_TRUNC" in said and not is_new:
                inode.pending.append(Change(0, None))
            if is_new or "O_TRUNC" in said:
                yield "openat"
        elif call in ("rename", "renameat2", "unlink"):
            paths = [text.decode() for text in texts]
            if not paths[0].startswith(str(root)):
                continue
            changes: dict[str, Callable[..., None]] = {
                "rename": disk.renamed,
                "renameat2": disk.exchanged,
                "unlink": disk.unlinked,
            }
            changes[call](*paths)
            yield call
        elif fd not in files:
            continue
        elif call == "close":
            del files[fd]
        elif call in ("fsync", "fdatasync"):
            path, synced = files[fd]
            if synced is None:
                disk.directory_synced(path)
            else:
                disk.synced(synced)
            yield call
        else:
            written = files[fd][1]
            assert written is not None, line
            if call == "ftruncate":
                written.pending.append(Change(int(said.rpartition(",")[2]), None))
            else:
                offset = int(said.rpartition(",")[2]) if call == "pwrite64" else positions[fd]
                positions[fd] = offset + result
                written.pending.append(Change(offset, texts[0][:result]))
            yield call


@dataclass
class Losses:
    """What was tried."""

    instants: int = 0
    states: int = 0
    different: int = 0
    violations: list[str] = field(default_factory=list)


def lose_power(folder: Path, kind: str, *, step: int = 1, seed: int = 1) -> Losses:
    """A power loss after every `step`th call that changes something, in every state that it may leave."""
    scene = Scene(root=folder / "root", kind=kind)
    slot_scene.prepare(scene)
    shutil.copytree(scene.root, folder / "template")
    slot_scene.work(scene)
    shutil.rmtree(scene.root)
    shutil.copytree(folder / "template", scene.root)
    disk = Disk.of(scene.root)
    lines = recorded(scene, folder / "trace")
    losses, seen, chance = Losses(), set(), random.Random(seed)
    for number, call in enumerate(replayed(disk, lines, scene.root)):
        if number % step:
            continue
        losses.instants += 1
        for state in disk.crash_states(chance):
            losses.states += 1
            digest = hashlib.sha256(repr(sorted(state.items())).encode()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            losses.different += 1
            losses.violations += [f"{kind}, {number} ({call}): {one}" for one in _broken(scene, state)]
    return losses


def _broken(scene: Scene, state: dict[str, bytes]) -> list[str]:
    for directory in ("models", "etc", "state", "run", "checkpoints"):
        shutil.rmtree(scene.root / directory, ignore_errors=True)
        (scene.root / directory).mkdir(parents=True)
    for path, content in state.items():
        Path(path).write_bytes(content)
    try:
        broken = slot_scene.broken_after_fault(scene)
        slot_scene.work(scene, slot_scene.Clock())
        return (
            broken + slot_scene.broken_after_restart(scene, may_be_given_up=False) + slot_scene.broken_afterwards(scene)
        )
    except Exception as error:
        return [f"the restart fails: {error!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="lose power after one call in so many (default 1: all)")
    arguments = parser.parse_args()
    began, broken = time.monotonic(), []
    print("| power lost during | instants | crash states | different ones, each restarted | violations |")
    print("|---|---:|---:|---:|---:|")
    for kind in slot_scene.SCENES:
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(prefix="retrain-power-", dir=memory if memory.is_dir() else None) as folder:
            found = lose_power(Path(folder), kind, step=arguments.step)
        print(f"| {kind} | {found.instants} | {found.states} | {found.different} | {len(found.violations)} |")
        broken += found.violations
    print("\n".join(broken[:50]))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
