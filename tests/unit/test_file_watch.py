"""A change of a watched file is noticed, however it is made; one beside it is not."""

import os
import select
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from retrain_worker.adapters import file_watch
from retrain_worker.adapters.file_watch import FileWatch


def rewrite(file: Path) -> None:
    file.write_text("b")


def replace_it(file: Path) -> None:
    new = file.with_name("new")
    new.write_text("b")
    new.replace(file)


def remove(file: Path) -> None:
    file.unlink()


def move_away(file: Path) -> None:
    file.rename(file.with_name("old"))


@pytest.mark.parametrize("change", [rewrite, replace_it, remove, move_away])
def test_a_change_wakes_and_is_reported_once(tmp_path: Path, change: Callable[[Path], None]) -> None:
    file = tmp_path / "watched"
    file.write_text("a")
    with FileWatch([file]) as watch:
        assert not watch.has_changed()
        change(file)
        assert select.select(watch.descriptors(), [], [], 0)[0]
        assert watch.has_changed()
        assert not watch.has_changed()


def test_a_file_that_does_not_exist_yet_is_watched(tmp_path: Path) -> None:
    with FileWatch([tmp_path / "later"]) as watch:
        (tmp_path / "later").touch()
        assert watch.has_changed()


def test_another_file_and_reading_are_no_change(tmp_path: Path) -> None:
    (tmp_path / "watched").write_text("a")
    with FileWatch([tmp_path / "watched"]) as watch:
        (tmp_path / "other").write_text("b")
        (tmp_path / "watched").read_text()
        assert not watch.has_changed()


def test_what_cannot_be_watched_is_left_out(tmp_path: Path) -> None:
    with FileWatch([tmp_path / "no/such/folder/file", tmp_path / "watched"]) as watch:
        (tmp_path / "watched").touch()
        assert watch.has_changed()


def test_more_changes_than_the_kernel_keeps_are_a_change(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with FileWatch([tmp_path / "watched"]) as watch:
        for number in range(limit // 2 + 2):  # each one creates and deletes; the same event twice in a row is one
            path = tmp_path / str(number)
            os.mkfifo(path)
            path.unlink()
        assert watch.has_changed()


def test_without_instances_there_is_nothing_to_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def inotify_init1(self, _flags: int) -> int:
            return -1

    monkeypatch.setattr(file_watch, "_libc", Exhausted())
    with FileWatch([tmp_path / "watched"]) as watch:
        assert watch.descriptors() == []
        assert not watch.has_changed()


def test_a_folder_that_is_removed_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with FileWatch([folder / "watched"]) as watch:
        shutil.rmtree(folder)
        watch.has_changed()
        assert not watch.has_changed()
