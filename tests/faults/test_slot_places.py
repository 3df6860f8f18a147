"""The slot where it does not fit: a full disk, a read-only one, a file that is a mount, files of others. Real ones.

Each case happens in a fork, in a mount namespace of its own, as another user where it is about rights.
"""

import ctypes
import os
import pwd
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import durable_file
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.domain.artifact import checksum_file, checksum_line, manifest_file
from retrain_worker.errors import RetrainError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and be somebody else")

ENV = b"A=1\nPATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH=/old/patchtst.pth\n"
_NEW_NAMESPACE, _READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)


class NoNamespaceError(Exception):
    """Also for root it may be forbidden, as in some containers."""


class Place:
    """Directories of an engine and a candidate, in a folder that every user can enter."""

    def __init__(self, root: Path) -> None:
        self.models, self.etc, self.run = (root / name for name in ("models", "etc", "run"))
        for directory in (self.models, self.etc, self.run):
            directory.mkdir()
        self.env_file = self.etc / "ai-engine.env"
        self.env_file.write_bytes(ENV)
        self.slot = ModelSlot(engine_models_dir=self.models, engine_env_file=self.env_file)
        self.candidate = self.run / "patchtst_v20260110_120000.pth"
        self.candidate.write_bytes(os.urandom(100_000))
        self.sha256 = durable_file.sha256_of(self.candidate)
        checksum_file(self.candidate).write_text(checksum_line(self.candidate, self.sha256))
        manifest_file(self.candidate).write_text("{}")

    def swapped(self) -> str:
        published = self.slot.publish(self.candidate, expected_sha256=self.sha256)
        self.slot.point_to(published, expected_sha256=self.sha256, replacing=Path("/old/patchtst.pth"))
        named = self.slot.current_path()
        assert named is not None
        return named.name

    def problems(self) -> str:
        return " ".join(f"{finding} -> {remedy}" for finding, remedy in self.slot.problems())

    def leftovers(self) -> list[str]:
        return [path.name for path in self.etc.iterdir() if path.name.startswith(durable_file.TEMPORARY_PREFIX)]


@pytest.fixture
def place() -> Iterator[Place]:
    # not tmp_path: its parents are closed to others
    root = Path(tempfile.mkdtemp(prefix="retrain-place-"))
    root.chmod(0o755)
    yield Place(root)
    shutil.rmtree(root)


def elsewhere(*acts: Callable[[], object], user: str | None = None) -> str:
    """What the last of `acts` says, done in a fork: an error of ours as its kind and text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _enter_own_namespace()
            for act in acts[:-1]:
                act()
            if user:
                _become(user)
            said = str(acts[-1]())
        except RetrainError as error:
            said = f"{type(error).__name__}: {error}"
        except NoNamespaceError as error:
            said = f"no namespace here: {error}"
        except BaseException:
            said = f"broken: {traceback.format_exc()}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as hearing:
        said = hearing.read()
    os.waitpid(pid, 0)
    if said.startswith("no namespace"):
        pytest.skip(said)
    assert not said.startswith("broken"), said
    return said


def _enter_own_namespace() -> None:
    if _LIBC.unshare(_NEW_NAMESPACE) != 0:
        raise NoNamespaceError(os.strerror(ctypes.get_errno()))
    mount("none", "/", "", _RECURSIVE | _PRIVATE)


def mount(what: str | Path, where: str | Path, kind: str, flags: int, options: str = "") -> None:
    done = _LIBC.mount(os.fsencode(what), os.fsencode(where), kind.encode(), flags, options.encode())
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(where))


def _become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def given_to_nobody(place: Place) -> None:
    entry = pwd.getpwnam("nobody")
    for path in (place.models, place.etc, place.run, *place.etc.iterdir(), *place.run.iterdir()):
        os.chown(path, entry.pw_uid, entry.pw_gid)


def test_a_disk_without_room_for_the_model_is_named_before_anything_is_written(place: Place) -> None:
    def full() -> None:
        mount("none", place.models, "tmpfs", 0, "size=1m")

    def tried() -> Any:
        try:
            return place.swapped()
        except RetrainError as error:
            return f"{type(error).__name__} {error} {list(place.models.iterdir())} {place.env_file.read_bytes() == ENV}"

    said = elsewhere(full, tried)

    assert said.startswith("DiskFullError")
    assert said.endswith("free space on this file system [] True")


def test_a_full_disk_beside_the_env_file_leaves_it_alone_until_there_is_room(place: Place) -> None:
    def full() -> None:
        mount("none", place.etc, "tmpfs", 0, "size=8k")
        place.env_file.write_bytes(ENV)
        (place.etc / "ballast").write_bytes(bytes(4096))

    def tried() -> str:
        try:
            place.swapped()
        except RetrainError as error:
            said = f"{type(error).__name__} {place.env_file.read_bytes() == ENV} {place.leftovers()}"
        mount("none", place.etc, "", _REMOUNT, "size=1m")
        return f"{said}, then {place.swapped()}"

    assert elsewhere(full, tried) == f"DiskFullError True [], then {place.candidate.name}"


def test_a_read_only_directory_is_named_with_its_remedy(place: Place) -> None:
    def made_read_only() -> None:
        mount(place.etc, place.etc, "", _BIND)
        mount("none", place.etc, "", _REMOUNT | _BIND | _READ_ONLY)

    said = elsewhere(made_read_only, place.swapped)
    assert said.startswith(f"SlotError: {place.env_file}: ")
    assert "ReadWritePaths=" in said
    assert place.env_file.read_bytes() == ENV


def test_an_env_file_that_is_a_mount_point_is_neither_replaced_nor_written_in_place(place: Place) -> None:
    def mounted() -> None:
        mount(place.env_file, place.env_file, "", _BIND)

    assert f"is a mount point and cannot be replaced -> grant its directory instead: ReadWritePaths={place.etc}" in (
        elsewhere(mounted, place.problems)
    )
    said = elsewhere(mounted, place.swapped)
    assert said.startswith(f"SlotError: {place.env_file}: ")
    assert "grant its directory with ReadWritePaths=, not the file" in said
    assert (place.env_file.read_bytes(), place.leftovers()) == (ENV, [])


def not_ours(place: Place) -> None:
    os.chown(place.env_file, 0, -1)


def not_ours_in_a_sticky_directory(place: Place) -> None:
    os.chown(place.etc, 0, 0)
    place.etc.chmod(0o1777)
    os.chown(place.env_file, 0, -1)


def of_a_group_that_we_are_not_in(place: Place) -> None:
    os.chown(place.env_file, -1, 0)


def marked_read_only(place: Place) -> None:
    place.env_file.chmod(0o444)


def in_a_closed_directory(place: Place) -> None:
    place.etc.chmod(0o555)


@pytest.mark.parametrize(
    ("put", "told", "found"),
    [
        (not_ours, "cannot keep", "sudo chown nobody:"),
        (not_ours_in_a_sticky_directory, "cannot keep", "sudo chown nobody:"),
        (of_a_group_that_we_are_not_in, "cannot keep", "sudo chown nobody:"),
        (marked_read_only, "the file is read-only (mode 0444)", "chmod u+w"),
        (in_a_closed_directory, "cannot write here", "is not writable for nobody"),
    ],
)
def test_what_is_not_ours_to_write_is_left_alone_and_was_found_before(
    place: Place,
    put: Callable[[Place], None],
    told: str,
    found: str,
) -> None:
    given_to_nobody(place)
    put(place)
    before = place.env_file.stat()
    said = elsewhere(place.swapped, user="nobody")

    assert said.startswith(f"SlotError: {place.env_file}: ")
    assert told in said
    assert (place.env_file.read_bytes(), place.leftovers()) == (ENV, [])
    assert (place.env_file.stat().st_ino, place.env_file.stat().st_mode) == (before.st_ino, before.st_mode)
    assert found in elsewhere(place.problems, user="nobody")


def test_our_own_file_in_a_sticky_directory_of_root_is_replaced_and_stays_ours(place: Place) -> None:
    given_to_nobody(place)
    os.chown(place.etc, 0, 0)
    place.etc.chmod(0o1777)

    assert elsewhere(place.swapped, user="nobody") == place.candidate.name
    assert place.env_file.owner() == "nobody"
    assert place.env_file.read_bytes() == ENV.replace(b"/old/patchtst.pth", bytes(place.models / place.candidate.name))
