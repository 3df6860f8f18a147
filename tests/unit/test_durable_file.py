"""Durable replace: complete or not at all, no file left behind, every error with its remedy."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import durable_file
from retrain_worker.errors import ArtifactError, DiskFullError, RetryLaterError, SlotError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def failing(
    name: str,
    code: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    when: Callable[..., Any] = lambda *_: True,
) -> None:
    real = getattr(os, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, broken)


def test_replacing_keeps_mode_and_attributes(tmp_path: Path) -> None:
    target = tmp_path / "a.env"
    target.write_bytes(b"old")
    target.chmod(0o640)
    os.setxattr(target, "user.note", b"mine")
    fd = durable_file.open_unfollowed(target)
    metadata = durable_file.metadata_of(fd)
    os.close(fd)
    durable_file.replace_file(target, b"new", metadata=metadata)
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.getxattr(target, "user.note") == b"mine"
    assert names(tmp_path) == ["a.env"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_replacing_keeps_owner_and_group(tmp_path: Path) -> None:
    target = tmp_path / "a.env"
    durable_file.replace_file(target, b"x", metadata=durable_file.FileMetadata(mode=0o640, uid=1234, gid=4321))
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 4321)


def test_an_owner_that_cannot_be_kept_is_an_error_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.env"
    target.write_bytes(b"old")
    failing("fchown", errno.EPERM, monkeypatch)
    with pytest.raises(SlotError, match="owner"):
        durable_file.replace_file(target, b"new", metadata=durable_file.FileMetadata(mode=0o640, uid=1234, gid=4321))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.env"]


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EIO, RetryLaterError),
        (errno.EROFS, SlotError),
        (errno.EACCES, SlotError),
    ],
)
def test_an_error_before_the_rename_leaves_the_old_file_and_no_temporary(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: Any,
    kind: Any,
) -> None:
    target = tmp_path / "a.env"
    target.write_bytes(b"old")
    failing(call, code, monkeypatch)
    with pytest.raises(kind) as caught:
        durable_file.replace_file(target, b"new")
    assert caught.value.remedy
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.env"]


def test_a_full_disk_is_named_with_the_bytes_that_were_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "m.pth", tmp_path / "copy.pth"
    source.write_bytes(bytes(20_000))
    sha256 = durable_file.sha256_of(source)
    failing("write", errno.ENOSPC, monkeypatch)
    expected = r"no space left on device \(20,000 bytes needed\)"
    with pytest.raises(DiskFullError, match=expected):
        durable_file.copy_durably(source, target, mode=0o640, expected_sha256=sha256)
    with pytest.raises(DiskFullError, match=expected):
        durable_file.replace_file(target, bytes(20_000))
    with pytest.raises(DiskFullError, match=expected):
        durable_file.write_in_place(target, bytes(20_000))


def test_a_failed_fsync_is_never_repeated_on_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fsync(fd: Any) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RetryLaterError):
        durable_file.replace_file(tmp_path / "a.env", b"new")
    assert len(calls) == 1


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    durable_file.replace_file(tmp_path / "a.env", b"0123456789")
    assert (tmp_path / "a.env").read_bytes() == b"0123456789"


def test_bytes_that_read_back_differently_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.env").write_bytes(b"old")
    monkeypatch.setattr(os, "write", lambda _, data: len(data))
    with pytest.raises(RetryLaterError, match="not those that were written"):
        durable_file.replace_file(tmp_path / "a.env", b"new")
    assert (tmp_path / "a.env").read_bytes() == b"old"


def test_a_mount_point_is_named_as_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.env").write_bytes(b"old")

    def rename(self: Any, target: Any) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(SlotError, match="ReadWritePaths"):
        durable_file.replace_file(tmp_path / "a.env", b"new")
    assert names(tmp_path) == ["a.env"]


@pytest.mark.parametrize("matches", [[False], [True, False]])
def test_what_is_not_as_expected_is_not_replaced(tmp_path: Path, matches: list[bool]) -> None:
    target = tmp_path / "a.env"
    target.write_bytes(b"old")
    metadata = durable_file.FileMetadata(mode=0o640, uid=os.getuid(), gid=os.getgid())
    answers = iter(matches)
    with pytest.raises(durable_file.ChangedMeanwhileError):
        durable_file.exchange_file(target, b"new", metadata=metadata, is_expected=lambda _: next(answers))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.env"]


def test_an_exchange_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a.env"
    target.write_bytes(b"old")
    metadata = durable_file.FileMetadata(mode=0o640, uid=os.getuid(), gid=os.getgid())
    assert durable_file.exchange_file(target, b"new", metadata=metadata, is_expected=lambda _: True)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o640)
    assert names(tmp_path) == ["a.env"]


def test_a_copy_is_the_bytes_that_were_expected(tmp_path: Path) -> None:
    source = tmp_path / "m.pth"
    source.write_bytes(os.urandom(3_000_000))
    sha256 = durable_file.sha256_of(source)
    durable_file.copy_durably(source, tmp_path / "copy.pth", mode=0o640, expected_sha256=sha256)
    assert hashlib.sha256((tmp_path / "copy.pth").read_bytes()).hexdigest() == sha256
    assert stat.S_IMODE((tmp_path / "copy.pth").stat().st_mode) == 0o640


def test_a_copy_of_other_bytes_never_appears(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"x")
    with pytest.raises(ArtifactError):
        durable_file.copy_durably(tmp_path / "m.pth", tmp_path / "copy.pth", mode=0o644, expected_sha256="0" * 64)
    assert names(tmp_path) == ["m.pth"]


def test_writing_in_place_keeps_the_inode(tmp_path: Path) -> None:
    target = tmp_path / "trigger"
    durable_file.write_in_place(target, b"a long first line\n")
    inode = target.stat().st_ino
    durable_file.write_in_place(target, b"short\n")
    assert (target.read_bytes(), target.stat().st_ino) == (b"short\n", inode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_in_place_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 4321, 4321)
    durable_file.write_in_place(tmp_path / "trigger", b"x")
    assert (tmp_path / "trigger").stat().st_uid == 4321


def test_writing_in_place_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"keep")
    (tmp_path / "trigger").symlink_to(tmp_path / "victim")
    with pytest.raises(SlotError):
        durable_file.write_in_place(tmp_path / "trigger", b"x")
    assert (tmp_path / "victim").read_bytes() == b"keep"


def test_the_sweep_removes_only_temporary_files_of_this_program(tmp_path: Path) -> None:
    ours = tmp_path / ".retrain-worker.a.env.0123456789abcdef.tmp"
    for path in (ours, tmp_path / "other.tmp", tmp_path / ".a.env.swp"):
        path.write_bytes(b"")
    assert durable_file.sweep_temporaries(tmp_path) == (ours,)
    assert names(tmp_path) == [".a.env.swp", "other.tmp"]


def test_bytes_are_durable_before_the_name_and_the_name_before_the_call_returns(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(fd: Any) -> None:
        said.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"{os.fstat(fd).st_size} bytes")
        fsync(fd)

    def noted_rename(self: Any, target: Any) -> None:
        said.append("rename")
        rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    durable_file.replace_file(tmp_path / "a.env", b"12345")
    source = tmp_path / "a.env"
    durable_file.copy_durably(source, tmp_path / "b", mode=0o644, expected_sha256=durable_file.sha256_of(source))
    assert said == ["5 bytes", "rename", "directory"] * 2


def test_a_file_written_in_pieces_appears_complete_or_not_at_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    target = tmp_path / "a.npy"
    (tmp_path / ".retrain-worker.a.npy.0123.tmp").write_bytes(b"left by a killed process")
    with durable_file.replacing(target) as file:
        for _ in range(1000):
            file.write(b"0123456789")
        assert not target.exists()
    assert target.read_bytes() == b"0123456789" * 1000
    with pytest.raises(ZeroDivisionError), durable_file.replacing(target) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"0123456789" * 1000
    assert names(tmp_path) == ["a.npy"]
