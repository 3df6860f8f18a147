"""Time and memory of `retrain-worker discover` on a generated host: `python benchmarks/discover.py [--files 1000000]`.

The tree holds databases (sources, backups, WAL, damaged, empty, unrelated) and files that are hard to classify (code,
JSON, text in columns, binaries). The floor is the same walk in one thread, which reads the first 4,096 bytes of each
file and classifies nothing. 1,000,000 files: 11 GB, two minutes to write; --keep DIR writes them once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from big_table import big_table

FILES_PER_DIRECTORY = 100
HEAD_BYTES = 4096
FLOOR = f"""
import os, sys
waiting = [sys.argv[1]]
while waiting:
    with os.scandir(waiting.pop()) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                handle = os.open(entry.path, os.O_RDONLY)
                os.read(handle, {HEAD_BYTES})
                os.close(handle)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--databases", type=int, default=100)
    parser.add_argument("--rows", type=int, default=60_000, help="rows of the largest training table")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write the tree to DIR, or measure the one that is there"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="discover") as folder:
        root = asked.keep or Path(folder) / "host"
        if not root.exists():
            started = time.perf_counter()
            write_databases(root, number=asked.databases, rows=asked.rows)
            write_files(root, number=asked.files)
            print(f"tree written in {time.perf_counter() - started:.0f} s", flush=True)
        print("| | wall s | processor s | peak MB |\n|---|---:|---:|---:|")
        measured("floor", [sys.executable, "-c", FLOOR, root])
        out, home = Path(folder) / "packs", Path(folder) / "home"
        measured("discover", [sys.executable, "-m", "retrain_worker", "discover", root, "--out", out, "--home", home])
        show(json.loads(next(out.glob("*.json")).read_bytes()))


def measured(name: str, command: list[object]) -> None:
    """Run `command` and print its wall time, the processor time of all its processes, and its peak memory."""
    started, before = time.perf_counter(), os.times()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _pid, _status, usage = os.wait4(process.pid, 0)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"| {name} | {time.perf_counter() - started:.1f} | {spent:.1f} | {usage.ru_maxrss / 1024:.0f} |", flush=True)


def show(pack: dict[str, Any]) -> None:
    roles = Counter(each["role"] for each in pack["databases"])
    print(f"\n{pack['walk']['num_files']:,} files; databases: {', '.join(f'{role} {n}' for role, n in roles.items())}")


def write_databases(root: Path, *, number: int, rows: int) -> None:
    """One source; of each 20 others 2 have training rows, 1 is damaged, 1 empty, 1 text, 2 are in WAL mode."""
    source = root / "opt/quantum/data/quantum_trader.db"
    source.parent.mkdir(parents=True)
    big_table(source, rows=rows)
    content = source.read_bytes()
    for index in range(1, number):
        path = root / f"srv/app{index % 50}/{index}/state.db"
        path.parent.mkdir(parents=True)
        match index % 20:
            case 0:
                path.write_bytes(content)
            case 1:
                big_table(path, rows=rows // 10, seed=index)
            case 2:
                path.write_bytes(content[: 20_000 + index])
            case 3:
                path.touch()
            case 4:
                path.write_text("no database\n" * index)
            case _:
                write_other(path, kilobytes=2 ** (index % 14), is_wal=index % 20 in {5, 6})


def write_other(path: Path, *, kilobytes: int, is_wal: bool) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA journal_mode = {'wal' if is_wal else 'delete'}")
        database.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, body TEXT)")
        database.execute(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO events (body) SELECT printf('%0200d', i) FROM n",
            (5 * kilobytes,),
        )
        database.commit()
        if is_wal and kilobytes < 1000:  # a copy of a database that is in use: its -wal is pending
            database.execute("INSERT INTO events (body) VALUES ('pending')")
            database.commit()
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{path.with_name('copied.db')}{suffix}")


def write_files(root: Path, *, number: int) -> None:
    """`number` files in directories of FILES_PER_DIRECTORY."""
    contents = list(kinds_of_content(random.Random(1)))
    for first in range(0, number, FILES_PER_DIRECTORY):
        index = first // FILES_PER_DIRECTORY
        folder = root / f"usr/lib/package{index // 400}/part{index // 20 % 20}/{index}"
        folder.mkdir(parents=True)
        for file in range(first, min(first + FILES_PER_DIRECTORY, number)):
            suffix, content = contents[file % len(contents)]
            handle = os.open(f"{folder}/{file}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(handle, content)
            os.close(handle)


def kinds_of_content(chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """(suffix, bytes) of 200 files: a fifth each of code, text, data, binaries and small files."""
    words = ("value", "table", "index", "return", "import", "self", "data", "order")

    def text(size: int, line: int = 9) -> str:
        lines = (" ".join(chance.choices(words, k=line)) for _ in range(size // 60 + 1))
        return "\n".join(lines)

    for index in range(40):
        size = chance.choice((300, 2_000, 6_000, 20_000))
        yield (".py", f'"""Code {index}."""\n\ndatabase_name = "x"\nimport os\n{text(size)}\n'.encode())
        yield (chance.choice(("", ".md", ".txt", ".html", ".c", ".h", ".js")), text(size).encode())
        yield from (
            [(".json", json.dumps({text(80): list(range(size // 8))}, indent=index % 2 or None).encode())]
            if index % 4
            else [(".txt", "\n".join(f"{n} {n * 2}, x {n % 7}, word, {n / 3}" for n in range(size // 20)).encode())]
        )
        head = (b"\x7fELF\x02\x01\x01", b"\xa7\r\r\n\0\0\0\0", b"\x89PNG\r\n\x1a\n", b"\x1f\x8b\x08\0", b"PK\x03\x04")
        yield (chance.choice((".so", ".pyc", ".png", ".gz", ".bin")), head[index % 5] + chance.randbytes(size))
        small = (b"", b"1\n", b"NAME=x\nVERSION=2\n", b"[Install]\nWantedBy=x\n", b"pip\n", b"\x80\x04x", b"a,b\n")
        yield ("", small[index % len(small)])


if __name__ == "__main__":
    main()
