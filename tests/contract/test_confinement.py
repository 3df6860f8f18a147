"""A worker has its files and folders only, signals no other process, and opens no connection that it does not need."""

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retrain_worker import confinement

pytestmark = pytest.mark.skipif(not confinement.version(), reason="this kernel has no Landlock")


def write(path: Path) -> None:
    path.write_text("changed")


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("changed")


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def replace(path: Path) -> None:
    new = Path("new")
    new.write_text("changed")
    new.replace(path)


def remove(path: Path) -> None:
    path.unlink()


def make_beside(path: Path) -> None:
    path.with_name("beside").write_text("new")


def link_over(path: Path) -> None:
    path.with_name("link").symlink_to("/etc/passwd")


def make_folder(path: Path) -> None:
    path.with_name("folder").mkdir()


def write_in_a_child(path: Path) -> None:
    subprocess.run(["sh", "-c", f"echo changed >{path}"], check=True, stderr=subprocess.DEVNULL)


def read(path: Path) -> None:
    path.read_bytes()


def list_folder(path: Path) -> None:
    list(path.parent.iterdir())


def map_into_memory(path: Path) -> None:
    with path.open("rb") as file:
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def read_through_a_link(path: Path) -> None:
    Path("link").symlink_to(path)
    Path("link").read_bytes()


def read_through_a_second_name(path: Path) -> None:
    Path("second-name").hardlink_to(path)
    Path("second-name").read_bytes()


def read_in_a_child(path: Path) -> None:
    subprocess.run(["cat", str(path)], check=True, capture_output=True)


def read_the_environment_of_the_parent(_path: Path) -> None:
    Path(f"/proc/{os.getppid()}/environ").read_bytes()


def read_the_memory_of_the_parent(_path: Path) -> None:
    Path(f"/proc/{os.getppid()}/maps").read_bytes()


def connect(path: Path) -> None:
    socket.create_connection(("127.0.0.1", int(path.read_text())), timeout=10).close()


def signal_the_parent(_path: Path) -> None:
    os.kill(os.getppid(), signal.SIGUSR1)


FORBIDDEN: list[Callable[[Path], None]] = [
    write,
    append,
    truncate,
    replace,
    remove,
    make_beside,
    link_over,
    make_folder,
    write_in_a_child,
    read,
    list_folder,
    map_into_memory,
    read_through_a_link,
    read_through_a_second_name,
    read_in_a_child,
    read_the_environment_of_the_parent,
    read_the_memory_of_the_parent,
]


def in_a_worker(
    action: Callable[[Path], None],
    path: Path,
    run_dir: Path,
    *,
    uses_network: bool = False,
    readable: Path | None = None,
) -> str:
    """What a confined process reports of `action`: `done`, or the name of its error."""
    program = (
        "import os, sys; from pathlib import Path; from retrain_worker.confinement import confine\n"
        f"import {__name__} as tried\n"
        f"assert confine(readable=[Path({str(readable)!r})], writable=[Path.cwd()], uses_network={uses_network})\n"
        "Path('own').write_text('own'); Path('/dev/null').write_text('')\n"
        f"try: tried.{action.__name__}(Path({str(path)!r}))\n"
        "except Exception as error: print(type(error).__name__)\n"
        "else: print('done')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=run_dir, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("action", FORBIDDEN)
def test_the_engine_is_out_of_reach(tmp_path: Path, run_dir: Path, action: Callable[[Path], None]) -> None:
    env_file = tmp_path / "engine/ai-engine.env"
    env_file.parent.mkdir()
    env_file.write_text("OTHER=1\n")
    before = sorted(env_file.parent.iterdir())

    refusals = {"PermissionError", "CalledProcessError", "OSError"}  # a second name in another folder: EXDEV

    assert in_a_worker(action, env_file, run_dir, uses_network=True) in refusals

    assert env_file.read_text() == "OTHER=1\n"
    assert sorted(env_file.parent.iterdir()) == before


@pytest.mark.parametrize(("uses_network", "expected"), [(True, "done"), (False, "PermissionError")])
def test_only_a_worker_that_reads_the_database_has_a_network(
    tmp_path: Path, run_dir: Path, uses_network: bool, expected: str
) -> None:
    if confinement.version() < 4:
        pytest.skip("this kernel's Landlock does not know TCP")
    with socket.create_server(("127.0.0.1", 0)) as server:
        (run_dir / "port").write_text(str(server.getsockname()[1]))
        assert in_a_worker(connect, run_dir / "port", run_dir, uses_network=uses_network) == expected


def test_named_files_and_folders_can_be_read_and_not_written(tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table/t.db").write_text("rows")
    for named in (tmp_path / "table", tmp_path / "table/t.db"):
        for action, expected in ((read, "done"), (map_into_memory, "done"), (write, "PermissionError")):
            assert in_a_worker(action, tmp_path / "table/t.db", run_dir, readable=named) == expected


def test_other_processes_get_no_signal(tmp_path: Path, run_dir: Path) -> None:
    if confinement.version() < 6:
        pytest.skip("this kernel's Landlock does not know signals")
    assert in_a_worker(signal_the_parent, tmp_path, run_dir, uses_network=True) == "PermissionError"
