"""The slot: a model published, an env line changed, nothing else touched."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import durable_file
from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.domain import env_file
from retrain_worker.domain.artifact import checksum_file, checksum_line, manifest_file
from retrain_worker.errors import ArtifactError, DiskFullError, RetryLaterError, SlotError

VERSION = "patchtst_v20260110_120000"
ENV = b"# engine\r\nA=1\nPATCHTST_SHADOW_ONLY=true\nPATCHTST_MODEL_PATH=/old/patchtst.pth\nB=2"


class Engine:
    """An engine's directories, and a candidate beside them."""

    def __init__(self, root: Path) -> None:
        self.models_dir, self.etc, self.run_dir = root / "models", root / "etc", root / "run"
        for directory in (self.models_dir, self.etc, self.run_dir):
            directory.mkdir()
        self.env_file = self.etc / "ai-engine.env"
        self.env_file.write_bytes(ENV)
        self.trigger_file = self.etc / "trigger"
        self.ticks = 0
        self.slot = self.slot_for(None)

    def slot_for(self, serving_user: str | None) -> ModelSlot:
        return ModelSlot(
            engine_models_dir=self.models_dir,
            engine_env_file=self.env_file,
            trigger_file=self.trigger_file,
            serving_user=serving_user,
            now=self.now,
        )

    def now(self) -> datetime:
        self.ticks += 1
        return datetime(2026, 1, 10, 12, tzinfo=UTC) + timedelta(seconds=self.ticks)

    def candidate(self, version: Any = VERSION, content: bytes = b"weights") -> tuple[Path, str]:
        model = self.run_dir / f"{version}.pth"
        model.write_bytes(content)
        sha256 = durable_file.sha256_of(model)
        checksum_file(model).write_text(checksum_line(model, sha256))
        manifest_file(model).write_text("{}")
        return model, sha256

    def publish(
        self,
        version: Any = VERSION,
        content: bytes = b"weights",
    ) -> tuple[Path, str]:
        model, sha256 = self.candidate(version, content)
        return self.slot.publish(model, expected_sha256=sha256), sha256


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def open_engine() -> Iterator[Engine]:
    # not tmp_path: its parents are closed to others
    root = Path(tempfile.mkdtemp(prefix="retrain-slot-"))
    root.chmod(0o755)
    yield Engine(root)
    shutil.rmtree(root)


def names(directory: Any) -> list[Any]:
    return sorted(path.name for path in directory.iterdir())


def test_the_value_in_the_env_file_is_read(engine: Engine) -> None:
    assert str(engine.slot.current_path()) == "/old/patchtst.pth"
    assert engine.slot.is_shadow_only()
    engine.env_file.write_bytes(b"PATCHTST_SHADOW_ONLY=false\nPATCHTST_MODEL_PATH=\n")
    assert engine.slot.current_path() is None
    assert not engine.slot.is_shadow_only()


def test_a_swap_changes_one_value_and_no_other_byte(engine: Engine) -> None:
    published, sha256 = engine.publish()
    engine.env_file.chmod(0o640)
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert engine.env_file.read_bytes() == ENV.replace(b"/old/patchtst.pth", str(published).encode())
    assert stat.S_IMODE(engine.env_file.stat().st_mode) == 0o640
    assert engine.slot.current_path() == published
    engine.slot.trigger(published)
    assert engine.trigger_file.read_text() == f"{published}\n"


def test_a_backup_with_the_same_mode_is_written_beside_it(engine: Engine) -> None:
    published, sha256 = engine.publish()
    engine.env_file.chmod(0o600)
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    (backup,) = (path for path in engine.etc.iterdir() if ".bak-" in path.name)
    assert backup.name == "ai-engine.env.bak-20260110T120001000000"
    assert backup.read_bytes() == ENV
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600


def test_the_ten_newest_backups_are_kept(engine: Engine) -> None:
    for foreign in ("ai-engine.env.bak-mine", "ai-engine.env.bak"):
        (engine.etc / foreign).write_bytes(b"")
    for second in range(14):
        published, sha256 = engine.publish(f"patchtst_v20260110_1200{second:02}")
        engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert names(engine.etc) == [
        "ai-engine.env",
        "ai-engine.env.bak",
        *(f"ai-engine.env.bak-20260110T1200{n:02}000000" for n in range(5, 15)),
        "ai-engine.env.bak-mine",
    ]


def test_pointing_twice_changes_nothing(engine: Engine) -> None:
    published, sha256 = engine.publish()
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    before = (engine.env_file.stat().st_ino, names(engine.etc))
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert (engine.env_file.stat().st_ino, names(engine.etc)) == before


def test_publishing_twice_changes_nothing(engine: Engine) -> None:
    published, sha256 = engine.publish()
    inode = published.stat().st_ino
    assert engine.publish() == (published, sha256)
    assert published.stat().st_ino == inode
    assert names(engine.models_dir) == [f"{VERSION}.pth", f"{VERSION}.pth.json", f"{VERSION}.pth.sha256"]


def test_a_published_model_is_readable_for_all_and_writable_for_its_owner(engine: Engine) -> None:
    old = os.umask(0o077)
    try:
        published, _ = engine.publish()
    finally:
        os.umask(old)
    for path in engine.models_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert published.parent == engine.models_dir


def test_another_file_of_that_name_is_never_overwritten(engine: Engine) -> None:
    (engine.models_dir / f"{VERSION}.pth").write_bytes(b"somebody else's")
    with pytest.raises(SlotError, match="another file has this name"):
        engine.publish()
    assert (engine.models_dir / f"{VERSION}.pth").read_bytes() == b"somebody else's"


def test_a_damaged_candidate_is_not_published(engine: Engine) -> None:
    model, sha256 = engine.candidate()
    model.write_bytes(b"weightz")
    with pytest.raises(ArtifactError):
        engine.slot.publish(model, expected_sha256=sha256)
    assert names(engine.models_dir) == []


@pytest.mark.parametrize("missing", [checksum_file, manifest_file])
def test_a_candidate_without_its_sidecars_is_not_published(engine: Engine, missing: Any) -> None:
    model, sha256 = engine.candidate()
    missing(model).unlink()
    with pytest.raises(ArtifactError):
        engine.slot.publish(model, expected_sha256=sha256)
    assert names(engine.models_dir) == []


@pytest.mark.parametrize("name", ["model.pth", "patchtst_v1.pth", f"{VERSION}.bin", f"x{VERSION}.pth"])
def test_only_model_names_of_this_program_are_published(engine: Engine, name: str) -> None:
    model = engine.run_dir / name
    model.write_bytes(b"x")
    with pytest.raises(ArtifactError):
        engine.slot.publish(model, expected_sha256=durable_file.sha256_of(model))


def test_free_space_is_checked_before_anything_is_written(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_file, "free_bytes", lambda _: 1000)
    with pytest.raises(DiskFullError):
        engine.publish()
    assert names(engine.models_dir) == []


def test_a_damaged_model_is_not_pointed_to(engine: Engine) -> None:
    published, sha256 = engine.publish()
    published.write_bytes(b"weightz")
    with pytest.raises(ArtifactError):
        engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    published.unlink()
    with pytest.raises(ArtifactError):
        engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert engine.env_file.read_bytes() == ENV


@pytest.mark.parametrize("name", ["a b.pth", "ä.pth", "a\nB=1.pth", "../models/a.pth", "a$HOME.pth"])
def test_a_path_that_an_env_file_could_misread_is_rejected(engine: Engine, name: str) -> None:
    with pytest.raises(SlotError):
        engine.slot.point_to(engine.models_dir / name, expected_sha256="0" * 64, replacing=engine.slot.current_path())
    assert engine.env_file.read_bytes() == ENV


def put_missing(path: Any) -> None:
    path.unlink()


def put_link(path: Any) -> None:
    path.rename(path.with_name("real.env"))
    path.symlink_to("real.env")


def put_pipe(path: Any) -> None:
    path.unlink()
    os.mkfifo(path)


def put_directory(path: Any) -> None:
    path.unlink()
    path.mkdir()


def put_too_much(path: Any) -> None:
    path.write_bytes(b"# x\n" * 300_000)


def put_nul(path: Any) -> None:
    path.write_bytes(b"A=1\0\n")


@pytest.mark.parametrize("put", [put_missing, put_link, put_pipe, put_directory, put_too_much, put_nul])
def test_an_unusable_env_file_is_not_changed(engine: Engine, put: Any) -> None:
    published, sha256 = engine.publish()
    put(engine.env_file)
    before = names(engine.etc)
    for call in (
        engine.slot.current_path,
        engine.slot.is_shadow_only,
        lambda: engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path()),
    ):
        with pytest.raises(SlotError) as caught:
            call()
        assert str(engine.env_file) in str(caught.value)
    assert names(engine.etc) == before
    assert engine.slot.problems()


def edit_in_place(path: Any, content: Any) -> None:
    with path.open("ab") as file:
        file.write(content)


def edit_by_rename(path: Any, content: Any) -> None:
    path.with_name("editor").write_bytes(path.read_bytes() + content)
    path.with_name("editor").rename(path)


def edited(monkeypatch: pytest.MonkeyPatch, function: str, edit: Any, path: Any, edits: Any) -> None:
    """Before each call of durable_file's `function`, the next of `edits` is made to `path`."""
    real = getattr(durable_file, function)

    def call(*arguments: Any, **named: Any) -> Any:
        if edits:
            edit(path, edits.pop())
        return real(*arguments, **named)

    monkeypatch.setattr(durable_file, function, call)


@pytest.mark.parametrize("function", ["exchange_file", "_exchanged"])
@pytest.mark.parametrize("edit", [edit_in_place, edit_by_rename])
def test_an_edit_between_reading_and_the_exchange_is_not_lost(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    edit: Any,
    function: str,
) -> None:
    published, sha256 = engine.publish()
    edited(monkeypatch, function, edit, engine.env_file, [b"\nC=3"])
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert engine.env_file.read_bytes() == ENV.replace(b"/old/patchtst.pth", str(published).encode()) + b"\nC=3"
    assert not [name for name in names(engine.etc) if name.endswith(".tmp")]


def test_an_edit_made_while_another_one_is_put_back_is_not_lost(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published, sha256 = engine.publish()
    edited(monkeypatch, "_exchanged", edit_by_rename, engine.env_file, [b"\nD=4", b"\nC=3"])
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    # the second editor had our content before it, which was about to be taken back
    assert env_file.parse(engine.env_file.read_bytes())["D"] == "4"
    assert engine.slot.current_path() == published
    assert not [name for name in names(engine.etc) if name.endswith(".tmp")]


@pytest.mark.parametrize("function", ["exchange_file", "_exchanged"])
def test_a_file_that_changes_during_every_attempt_is_an_error(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
) -> None:
    published, sha256 = engine.publish()
    edited(monkeypatch, function, edit_in_place, engine.env_file, [b"\nC=3"] * 99)
    with pytest.raises(SlotError, match="another process changed the file"):
        engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert str(engine.slot.current_path()) == "/old/patchtst.pth"
    assert not [name for name in names(engine.etc) if name.endswith(".tmp")]


def test_a_file_system_that_cannot_exchange_two_names_gets_a_rename(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published, sha256 = engine.publish()
    monkeypatch.setattr(durable_file, "_RENAMEAT2", None)
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert engine.slot.current_path() == published
    assert not [name for name in names(engine.etc) if name.endswith(".tmp")]


def test_a_change_by_another_process_since_the_decision_is_kept(engine: Engine) -> None:
    published, sha256 = engine.publish()
    before = engine.env_file.read_bytes()
    with pytest.raises(RetryLaterError, match="by another process"):
        engine.slot.point_to(published, expected_sha256=sha256, replacing=Path("/older/patchtst.pth"))
    assert engine.env_file.read_bytes() == before


def test_the_sweep_removes_the_temporary_files_of_a_killed_swap(engine: Engine) -> None:
    for directory in (engine.etc, engine.models_dir):
        (directory / ".retrain-worker.x.0123.tmp").write_bytes(b"")
    assert len(engine.slot.sweep()) == 2
    assert names(engine.etc) == ["ai-engine.env"]


def test_old_models_are_removed_except_the_one_in_the_env_line(engine: Engine) -> None:
    published = [engine.publish(f"patchtst_v20260110_1200{second:02}") for second in range(5)]
    engine.slot.point_to(published[0][0], expected_sha256=published[0][1], replacing=engine.slot.current_path())
    (engine.models_dir / "patchtst_v_mine.pth").write_bytes(b"")
    gone = engine.slot.remove_old_models(keep=1, protected={published[2][0]})
    assert gone == (published[1][0], published[3][0])
    assert [name for name in names(engine.models_dir) if name.endswith(".pth")] == [
        f"patchtst_v20260110_1200{n}.pth" for n in ("00", "02", "04")
    ] + ["patchtst_v_mine.pth"]


def test_models_of_other_programs_are_never_removed_whatever_their_names(engine: Engine) -> None:
    for day in range(10, 20):
        (engine.models_dir / f"patchtst_v202601{day}_000000.pth").write_bytes(b"of an older script")
    engine.publish("patchtst_v20260110_120000")

    assert engine.slot.remove_old_models(keep=0, protected=()) == (engine.models_dir / "patchtst_v20260110_120000.pth",)
    assert len(list(engine.models_dir.glob("*.pth"))) == 10


@pytest.mark.parametrize("folder", ["{link}", "{models}/../models"])
def test_a_model_that_is_named_by_another_path_to_it_is_never_removed(engine: Engine, folder: str) -> None:
    published = [engine.publish(f"patchtst_v20260110_1200{second:02}") for second in range(4)]
    link = engine.models_dir.with_name("current")
    link.symlink_to(engine.models_dir)
    named = f"{folder.format(link=link, models=engine.models_dir)}/{published[0][0].name}"
    engine.env_file.write_text(f"PATCHTST_MODEL_PATH={named}\n")
    by_link = link / published[1][0].name

    assert engine.slot.remove_old_models(keep=1, protected={by_link}) == (published[2][0],)


def test_a_slot_without_problems_has_none_and_each_problem_has_a_remedy(engine: Engine) -> None:
    published, sha256 = engine.publish()
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    assert engine.slot.problems() == []
    engine.env_file.write_bytes(b"PATCHTST_MODEL_PATH=/gone.pth\n")
    engine.models_dir.chmod(0o777)
    found = engine.slot_for("nobody-has-this-name").problems()
    assert len(found) == 4
    assert all(finding and remedy for finding, remedy in found)


def test_a_directory_that_the_serving_user_cannot_enter_is_found(engine: Engine) -> None:
    published, sha256 = engine.publish()
    engine.slot.point_to(published, expected_sha256=sha256, replacing=engine.slot.current_path())
    engine.models_dir.chmod(0o700)
    published.chmod(0o600)
    findings = [finding for finding, _ in engine.slot_for("nobody").problems()]
    assert f"nobody cannot enter {engine.models_dir}" in findings
    assert f"nobody cannot read {published}" in findings


def test_a_model_that_the_serving_user_cannot_reach_is_not_published(engine: Engine) -> None:
    engine.models_dir.chmod(0o700)
    engine.slot = engine.slot_for("nobody")

    with pytest.raises(SlotError, match="nobody cannot enter"):
        engine.publish()


def test_other_files_beside_the_models_are_not_changed(open_engine: Engine) -> None:
    (open_engine.models_dir / "closed.pth").touch(0o600)
    (open_engine.models_dir / "gone.pth").symlink_to("nowhere.pth")
    open_engine.slot = open_engine.slot_for("nobody")
    published, sha256 = open_engine.publish()
    open_engine.slot.point_to(published, expected_sha256=sha256, replacing=open_engine.slot.current_path())
    assert open_engine.slot.problems() == []

    published.chmod(0o600)
    assert [finding for finding, _ in open_engine.slot.problems()] == [f"nobody cannot read {published}"]
    with pytest.raises(SlotError, match="nobody cannot read"):
        open_engine.publish()


def test_removing_the_line_keeps_every_other_byte_and_a_backup(engine: Engine) -> None:
    engine.slot.clear(replacing=Path("/old/patchtst.pth"))
    engine.slot.clear(replacing=Path("/old/patchtst.pth"))

    assert engine.env_file.read_bytes() == ENV.replace(b"PATCHTST_MODEL_PATH=/old/patchtst.pth\n", b"")
    assert engine.slot.current_path() is None
    assert sum(".bak-" in name for name in names(engine.etc)) == 1


def test_a_line_that_names_a_third_model_is_not_removed(engine: Engine) -> None:
    with pytest.raises(RetryLaterError, match="was changed to"):
        engine.slot.clear(replacing=Path("/engine/ours.pth"))

    assert engine.env_file.read_bytes() == ENV
