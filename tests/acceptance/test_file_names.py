"""File names that are not UTF-8, or hold control characters, are shown and stored escaped by every command."""

import json
import os
from pathlib import Path

import pytest

from retrain_worker.demo.market import write_market
from tests.acceptance.conftest import retrain_worker
from tests.seed_tree import END, make

NAME, SHOWN = "\udcff\n\x1b[31m a?b%20#é", "\\xff\\n\\x1b[31m a?b%20#é"
ENDED = {0, 1, 2, 11, 78}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names") / f"host-{NAME}"
    root.mkdir()
    write_market(root / f"trader-{NAME}.db", seed=3, end=END, rows=1_200)
    make(root / f"damaged-{NAME}.db", "SQLite format 3\0")
    make(root / f"model-{NAME}.pth", b"PK\x03\x04")
    return root


def call(*arguments: object, **settings: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; every line of both is printable, and none is a traceback."""
    done = retrain_worker(*arguments, **settings)
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text
        assert text.replace("\n", "").isprintable()
    assert done.returncode in ENDED
    return done.returncode, done.stdout, done.stderr


def test_discover(folder: Path, tmp_path: Path) -> None:
    code, screen, _ = call("discover", folder, "--out", folder / "out", "--home", tmp_path)
    assert code == 0
    assert f"/host-{SHOWN}/trader-{SHOWN}.db\n" in screen
    code, text, _ = call("discover", folder, "--out", folder / "out", "--home", tmp_path, "--json")
    pack = json.loads(text)
    assert pack["source"]["path"].endswith(f"/host-{SHOWN}/trader-{SHOWN}.db")
    assert any(f"damaged-{SHOWN}.db" in each["file"]["path"] for each in pack["databases"])
    assert f"model-{SHOWN}.pth" in pack["models"][0]["file"]["path"]
    assert len(list((folder / "out").glob("*.md"))) == 2


@pytest.mark.parametrize("verb", ["check", "audit"])
@pytest.mark.parametrize("name", ["trader", "damaged", "missing"])
def test_check_and_audit(folder: Path, tmp_path: Path, verb: str, name: str) -> None:
    path = folder / f"{name}-{NAME}.db"
    code, text, stderr = call(verb, "--db", path, "--home", tmp_path)
    assert (code == 0) == (name == "trader")
    assert ("1260 rows" if name == "trader" else f"{name}-{SHOWN}.db") in text + stderr
    code, text, stderr = call(verb, "--db", path, "--home", tmp_path, "--json")
    assert (code == 0) == (name == "trader")
    if name == "damaged":
        found = json.loads(text)
        reasons = found["reasons"] if verb == "audit" else [each["finding"] for each in found["checks"]]
        assert any(f"{name}-{SHOWN}.db" in reason for reason in reasons)


def test_inspect(folder: Path) -> None:
    for name, kind in (("model", "archive"), ("missing", "not readable")):
        code, text, _ = call("inspect", folder / f"{name}-{NAME}.pth")
        assert (code, f"/{name}-{SHOWN}.pth\n" in text) == (11, True)
        code, text, _ = call("inspect", "--json", folder / f"{name}-{NAME}.pth")
        [report] = json.loads(text)
        assert report["path"].endswith(f"/{name}-{SHOWN}.pth")
        assert kind in report["kind"]


def test_what_cannot_take_such_a_name_says_so(folder: Path, tmp_path: Path) -> None:
    for arguments in (
        ("audit", "--home", folder),
        ("check", "--env-file", folder / "gone.env"),
        ("export", folder / f"model-{NAME}.pth", "--format", "safetensors"),
        ("evaluate", folder / f"model-{NAME}.pth", "--db", folder / f"trader-{NAME}.db", "--home", tmp_path),
    ):
        code, _, stderr = call(*arguments)
        assert code in (2, 78)
        assert f"host-{SHOWN}" in stderr
    code, _, stderr = call("check", "--home", tmp_path, DB_PATH=os.fsdecode(b"/\xff.db"))
    assert (code, 'DB_PATH: "/\\xff.db" is not valid UTF-8' in stderr) == (78, True)


def test_once_on_such_a_database_ends_with_a_result(folder: Path, tmp_path: Path) -> None:
    code, text, _ = call("once", "--db", folder / f"damaged-{NAME}.db", "--home", tmp_path, "--json", SHADOW="false")
    assert code == 11
    assert f"damaged-{SHOWN}.db" in json.loads(text)["reasons"][0]
