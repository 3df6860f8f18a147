"""Files are classified by their content, no link is followed, and any file name is accepted."""

import os
import pickle
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_worker.discovery import directory_walk
from retrain_worker.discovery.binary_files import model_file
from retrain_worker.discovery.directory_walk import has_stored_files
from retrain_worker.discovery.discover import discover
from retrain_worker.discovery.file_classification import HEAD_BYTES, Kind, database_paths, kind_of
from retrain_worker.discovery.host_state import live_redis
from retrain_worker.discovery.progress import Progress
from retrain_worker.discovery.proof_pack import FileFacts
from retrain_worker.discovery.proof_pack_markdown import markdown
from retrain_worker.discovery.text_files import csv_file, instant_of, observations
from retrain_worker.domain.printable import printable
from retrain_worker.errors import UsageError
from tests.redis_world import RedisServer
from tests.seed_tree import HOSTILE, candles, make, torch_zip, walk

FACTS = FileFacts(path="", size_bytes=0, modified_at=None)


def kinds(root: Path) -> dict[str, Kind]:
    found, _ = walk(root)
    return {each.path.name: each.kind for each in found}


def sqlite_bytes(folder: Path) -> bytes:
    with closing(sqlite3.connect(folder / "made")) as database, database:
        database.execute("CREATE TABLE t (x)")
    content = (folder / "made").read_bytes()
    (folder / "made").unlink()
    return content


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"REDIS0011\xfa", Kind.REDIS),
        (b"*2\r\n$6\r\nSELECT\r\n", Kind.REDIS),
        (b"file appendonly.aof.1.base.rdb seq 1 type b\n", Kind.REDIS),
        (pickle.dumps({"a": 1}, protocol=4), Kind.MODEL),
        (b"PAR1" + b"\0" * 9, Kind.MODEL),
        (b'{"a": 1}\n{"a": 2}\n', Kind.JSON_LINES),
        (b"time,open,high,low,close\n1,2,3,4,5\n2,3,4,5,6\n", Kind.CSV),
        (b"# ours\nDB_PATH=/x.db\n", Kind.ENV),
        (b"; a unit\n\n[Unit]\nDescription=x\n", Kind.UNIT),
        (b'{"name": "package", "version": 1}\n', None),
        (b"NAME=Debian\nVERSION=12\n", None),
        (b"a, b, c\nd, e, f\ng, h, i\n", None),
        (b"dear diary\n", None),
        (b"\x80\x04 no pickle", None),
        (b"", None),
    ],
)
def test_content_decides_whatever_the_name(tmp_path: Path, content: Any, kind: Any) -> None:
    make(tmp_path / "a_name.bin", content)
    assert kinds(tmp_path).get("a_name.bin") is kind


def test_a_database_is_found_under_any_name_and_a_false_name_is_reported(tmp_path: Path) -> None:
    make(tmp_path / "holiday.jpg", sqlite_bytes(tmp_path))
    make(tmp_path / "quantum.db")
    make(tmp_path / "notes.sqlite", "dear diary")
    assert kinds(tmp_path) == {
        "holiday.jpg": Kind.SQLITE,
        "quantum.db": Kind.NO_DATABASE,
        "notes.sqlite": Kind.NO_DATABASE,
    }


def test_a_script_is_listed_when_it_names_a_database(tmp_path: Path) -> None:
    make(tmp_path / "one.py", "import os\n" + "# filler\n" * 1000 + 'db_path = "/home/qt/quantum.db"\n')
    make(tmp_path / "two.py", "print('hello')\n")
    assert kinds(tmp_path) == {"one.py": Kind.SCRIPT}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('db_path = "/home/qt/quantum.db"', ("db_path", "/home/qt/quantum.db")),
        ('DB = Path("/home/qt/q.sqlite3")', ("DB", "/home/qt/q.sqlite3")),
        ('os.getenv("DB_PATH", "/home/qt/q.db")', ("DB_PATH", "/home/qt/q.db")),
        ('sqlite3.connect("/home/qt/q.db")', ("sqlite3", "/home/qt/q.db")),
        ('engine --db /home/qt/q.db "$@"', ("db", "/home/qt/q.db")),
        ('url = "sqlite:////home/qt/q.db"', ("sqlite", "/home/qt/q.db")),
        ('# db_path = "/home/qt/quantum.db"', None),
        ('db_path = f"{home}/quantum.db"', None),
        ('db_path = "data/quantum.db"', None),
        ('database_url = "https://example.org/quantum.db"', None),
        ('db_path = "$HOME/quantum.db"', None),
        ('db_files = "/data/*.db"', None),
        ('image = "/home/qt/q.db"', None),
    ],
)
def test_database_paths_in_programs(line: str, expected: tuple[str, str] | None) -> None:
    assert [found[1:] for found in database_paths(line)] == ([expected] if expected else [])


@pytest.mark.parametrize(
    "head",
    [
        b"\n" * HEAD_BYTES,
        b"# \n" * (HEAD_BYTES // 3),
        b"# db database " * 20_000,
        b"x_db" * 60_000,
        b"db=" + b"/a" * 120_000 + b".db",
        b'db = "/x.db' * 20_000,
        b"a," * 100_000,
        b"A_=" * 80_000,
        b'{"a":' * 50_000,
    ],
)
@pytest.mark.parametrize("suffix", [".py", ".txt", ".csv"])
def test_no_content_takes_long_to_classify(head: Any, suffix: str) -> None:
    began = time.process_time()
    kind_of(f"a{suffix}", head[:HEAD_BYTES], read=lambda size: head[:size])
    assert time.process_time() - began < 1.0


def test_links_pipes_and_loops_neither_lead_out_nor_hang(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    candles(root / "a.csv")
    candles(outside / "b.csv")
    (root / "out").symlink_to(outside)
    (root / "file_out.csv").symlink_to(outside / "b.csv")
    (root / "loop").symlink_to(root)
    (root / "again.csv").symlink_to("a.csv")
    os.mkfifo(root / "pipe.db")
    found, walked = walk(root, cross_file_systems=True)
    assert [each.path for each in found] == [root / "a.csv"]
    assert found[0].links == (root / "again.csv",)
    assert walked.num_links_out == 2
    assert f"{root / 'out'} -> {outside}" in walked.links_out


def test_a_root_inside_a_root_is_searched_once(tmp_path: Path) -> None:
    candles(tmp_path / "in/a.csv")
    found, walked = walk(tmp_path / "in", tmp_path, tmp_path)
    assert (len(found), walked.num_files, walked.roots) == (1, 1, (str(tmp_path),))


def test_a_root_that_is_not_a_directory_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a directory"):
        walk(tmp_path / "gone")


def test_pseudo_file_systems_are_not_entered() -> None:
    found, walked = walk(Path("/proc"), cross_file_systems=True)
    assert (found, walked.num_files) == ([], 0)
    assert walked.not_entered


@pytest.mark.parametrize("cross_file_systems", [True, False])
def test_other_file_systems_are_entered_on_request_and_those_of_the_kernel_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cross_file_systems: bool
) -> None:
    for name in ("proc/kcore.csv", "mnt/b.csv", "a.csv"):
        candles(tmp_path / name)
    devices = {str(tmp_path / "proc"): 5, str(tmp_path / "mnt"): 6}

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self._entry = entry

        def __getattr__(self, name: str) -> Any:
            return getattr(self._entry, name)

        def stat(self, *, follow_symlinks: bool) -> SimpleNamespace:
            found = self._entry.stat(follow_symlinks=follow_symlinks)
            return SimpleNamespace(st_dev=devices.get(self._entry.path, found.st_dev))

    @contextmanager
    def scandir(path: str) -> Iterator[Iterator[Entry]]:
        with real_scandir(path) as entries:
            yield map(Entry, entries)

    real_scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(directory_walk, "has_stored_files", lambda path: not path.endswith("/proc"))
    found, walked = walk(tmp_path, cross_file_systems=cross_file_systems)
    assert {each.path.name for each in found} == ({"a.csv", "b.csv"} if cross_file_systems else {"a.csv"})
    assert walked.not_entered == (() if cross_file_systems else (f"{tmp_path / 'mnt'}: another file system",))


def test_the_kernel_has_file_systems_without_stored_files(tmp_path: Path) -> None:
    assert not has_stored_files("/proc")
    assert has_stored_files(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_listed(tmp_path: Path) -> None:
    make(tmp_path / "closed/a.csv").parent.chmod(0)
    make(tmp_path / "b.db").chmod(0)
    _, walked = walk(tmp_path)
    (tmp_path / "closed").chmod(0o755)
    assert walked.num_unreadable == 2
    assert all("Permission denied" in line for line in walked.unreadable)


def test_hostile_names_are_found_and_shown_on_one_line(tmp_path: Path) -> None:
    names = {HOSTILE, os.fsdecode(b"\xff\xfe.csv"), "-rf ; $(touch x).csv"}
    for name in names:
        candles(tmp_path / name)
    assert set(kinds(tmp_path)) == names
    for name in names:
        assert printable(name).isprintable()
        printable(name).encode()
    assert printable(os.fsdecode(b"\xff.csv")) == "\\xff.csv"


@pytest.mark.parametrize("header", [True, False])
def test_candles_are_known_by_their_columns(tmp_path: Path, header: bool) -> None:
    found = csv_file(candles(tmp_path / "x", rows=50, header=header), FACTS)
    assert (found.is_candles, found.rows) == (True, 50)
    assert (f"{found.first_at:%F %H:%M}", f"{found.last_at:%F %H:%M}") == ("2025-12-04 00:00", "2025-12-04 00:49")


def test_a_table_of_something_else_is_no_candles(tmp_path: Path) -> None:
    found = csv_file(make(tmp_path / "x.csv", "date;a\n2025-12-01;1\n2025-12-02;2"), FACTS)
    assert (found.is_candles, found.rows, found.columns) == (False, 2, ("date", "a"))
    assert f"{found.last_at:%F}" == "2025-12-02"


def test_observations_are_counted_to_the_last_line_without_an_end(tmp_path: Path) -> None:
    path = make(tmp_path / "x", '{"ts": 1763769600, "reward": 1}\n{"ts": 1763769660, "reward": 2}')
    found = observations(path, FACTS)
    assert (found.lines, found.keys, f"{found.last_at:%F %H:%M}") == (2, ("ts", "reward"), "2025-11-22 00:01")


@given(
    start=st.sampled_from(
        [
            b"",
            b"PK\x03\x04",
            b"\x80\x04\x95",
            b"\x08\x07\x12\x07pytorch",
            b'{"',
            b"REDIS0011",
            b"SQLite format 3\0",
            b"a,b,c\n",
            b"DB_PATH=",
            b"[Service]\n",
            b'\x09\0\0\0\0\0\0\0{"',
        ]
    ),
    rest=st.binary(max_size=300),
    name=st.sampled_from(["a", "a.db", "a.pt", "a.csv", "a.jsonl", "a.py", "a.npz"]),
)
@settings(max_examples=300)
def test_a_pack_is_made_whatever_the_content(
    tmp_path_factory: pytest.TempPathFactory,
    start: Any,
    rest: Any,
    name: Any,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    make(folder / name, start + rest)
    make(folder / f"other-{name}", start + rest)
    found = discover(
        [folder], cross_file_systems=False, configured=(), redis_url="", now=datetime.now(UTC), progress=Progress()
    )
    markdown(found.pack)
    msgspec.json.encode(found.pack)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-12-01 00:00:00", 1764547200),
        ("2025-12-01T01:00:00+01:00", 1764547200),
        ("1764547200", 1764547200),
        ("1764547200000", 1764547200),
        ("1764547200000000", 1764547200),
        ("0001-01-01T00:00:00+05:00", None),
        ("nan", None),
        ("7", None),
        ("soon", None),
    ],
)
def test_instants_are_read_in_every_notation(text: str, seconds: int | None) -> None:
    found = instant_of(text)
    assert (found and found.timestamp()) == seconds


def test_the_persistence_settings_of_a_live_redis_are_read(redis_server: RedisServer) -> None:
    found = live_redis(redis_server.url)
    assert found.problem == ""
    assert {"save", "appendonly", "rdb_last_bgsave_status"} <= set(found.settings)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_is_named_by_its_classes_and_never_executed(tmp_path: Path, protocol: int) -> None:
    path = make(tmp_path / "model.pkl", pickle.dumps(Bomb(tmp_path / "exploded"), protocol=protocol))
    assert "posix.system" in model_file(path, FACTS).what
    assert not (tmp_path / "exploded").exists()


def test_a_torch_file_is_described_by_its_listing(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "ppo_model.pt", "policy.0.weight", "policy.0.bias")
    assert model_file(path, FACTS).what == "PyTorch file, 2 tensors: policy.0.weight, policy.0.bias"


@pytest.mark.parametrize("cut", [5, 40, 200])
def test_a_truncated_torch_file_is_damaged(tmp_path: Path, cut: int) -> None:
    path = torch_zip(tmp_path / "m.pt", "a.weight")
    os.truncate(path, cut)
    assert "damaged" in model_file(path, FACTS).what
