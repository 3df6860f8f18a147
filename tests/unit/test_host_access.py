"""What `access grant` changes and `access restore` undoes, on files of this process."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrain_worker.adapters import engine_environment, posix_acl, service_unit
from retrain_worker.adapters.host_access import ENTER_AND_WRITE, READ, HostAccess
from retrain_worker.domain import env_file
from retrain_worker.errors import SlotError

UID, GID, READERS = 4711, 4712, 4713

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


@pytest.fixture
def root() -> Iterator[Path]:
    # not tmp_path, which other users cannot enter
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "etc").mkdir(mode=0o755)
        (root / "etc/engine.env").write_text("A=1\n")
        os.chown(root / "etc/engine.env", 0, READERS)
        (root / "etc/engine.env").chmod(0o640)
        yield root


def state_of(root: Path) -> dict[str, tuple[int, int, int, bytes | None]]:
    found = {}
    for path in (root / "etc", root / "etc/engine.env"):
        fd = os.open(path, os.O_RDONLY)
        status = os.fstat(fd)
        found[path.name] = (status.st_uid, status.st_gid, status.st_mode, posix_acl.read(fd))
        os.close(fd)
    return found


def granted(root: Path) -> tuple[HostAccess, list[str]]:
    access = HostAccess(uid=UID, gid=GID, record=root / "record/access.json")
    steps: list[Iterator[str]] = [
        access.grant(root / "etc", ENTER_AND_WRITE, is_sticky=True),
        access.hand_over(root / "etc/engine.env"),
        access.make_own(root / "models/runs"),
        access.add_file(root / "drop-ins/x.conf", "text\n"),
    ]
    return access, [line for step in steps for line in step]


def may(uid: int, gid: int, path: Path, mode: int) -> bool:
    """Whether another user may do that, by the kernel's own judgement."""
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        os._exit(not os.access(path, mode, effective_ids=True))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_service_may_replace_the_file_and_its_readers_keep_it(root: Path) -> None:
    access, lines = granted(root)

    assert may(UID, GID, root / "etc", os.W_OK | os.X_OK)
    assert may(UID, GID, root / "etc/engine.env", os.W_OK)
    assert may(1, READERS, root / "etc/engine.env", os.R_OK)
    assert not may(1, 1, root / "etc/engine.env", os.R_OK)
    assert not may(1, READERS, root / "etc/engine.env", os.W_OK)
    assert (root / "etc").stat().st_mode & 0o1000
    assert access.has_list_for_others(root / "etc/engine.env")
    assert len(lines) == 4
    assert granted(root)[1] == [], "a second time changes nothing"
    (root / "etc").chmod(0o755)  # takes the permission of the list away, and the sticky bit
    assert not may(UID, GID, root / "etc", os.W_OK)
    granted(root)
    assert may(UID, GID, root / "etc", os.W_OK)
    assert (root / "etc").stat().st_mode & 0o1000


def test_everything_is_restored_after_another_process_was_granted_access_again(root: Path) -> None:
    before = state_of(root)
    granted(root)
    assert state_of(root) != before
    access, _lines = granted(root)
    replaced = root / "etc/new"
    replaced.write_text("A=2\n")  # as a swap does
    os.chown(replaced, UID, GID)
    replaced.rename(root / "etc/engine.env")
    list(access.restore())

    assert state_of(root) == before
    assert not (root / "drop-ins").exists()
    assert (root / "models/runs").stat().st_uid == UID, "data is kept"
    assert not (root / "record/access.json").exists()


def test_no_link_is_followed_and_no_file_of_two_names_is_handed_over(root: Path) -> None:
    secret = root / "secret"
    secret.write_text("x")
    (root / "etc/link").symlink_to(secret)
    (root / "etc/second-name").hardlink_to(secret)
    access = HostAccess(uid=UID, gid=GID, record=root / "record.json")
    for name in ("link", "second-name"):
        with pytest.raises(SlotError):
            list(access.hand_over(root / "etc" / name))
        with pytest.raises(SlotError):
            list(access.grant(root / "etc" / name, READ))

    assert secret.stat().st_uid == 0


def test_values_of_root_are_kept_and_no_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_env = root / "etc/engine.env"
    engine_env.write_text('PYTHONPATH="/opt/quantum $x"\nREDIS_HOST=localhost\n')
    monkeypatch.setattr(engine_environment, "_UNITS", root / "units")
    monkeypatch.setattr(service_unit, "environment", lambda _unit: {"PYTHONPATH": "/home", "LD_LIBRARY_PATH": "/cuda"})
    monkeypatch.setattr(service_unit, "env_files", lambda _unit: [])
    kept = engine_environment.values_of_root("e.service", engine_env)
    texts = engine_environment.texts("e.service", kept)
    drop_in = texts[engine_environment.drop_in("e.service")]

    assert env_file.parse(texts[engine_environment.kept_file("e.service")].encode()) == kept
    assert {name: kept[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH")} == {
        "PYTHONPATH": "/opt/quantum $x",
        "LD_LIBRARY_PATH": "/cuda",
    }
    assert "LD_PRELOAD" in drop_in
    assert not {"PYTHONPATH", "PATH", "LD_LIBRARY_PATH"} & set(drop_in.rpartition("=")[2].split())

    os.chown(engine_env, UID, GID)
    engine_env.write_text("PYTHONPATH=/tmp\n")
    assert engine_environment.values_of_root("e.service", engine_env)["PYTHONPATH"] == "/home"
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert engine_environment.refused_names("e.service", engine_env) == ["PYTHONPATH"]
    engine_env.write_text('PYTHONPATH="/opt/quantum $x"\n')
    assert engine_environment.refused_names("e.service", engine_env) == []
