"""`discover` on a tree with every kind of file: a correct pack, no secret, no file changed."""

import hashlib
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retrain_worker.demo.market import write_market
from tests.acceptance.conftest import COMMAND, PATIENCE_SECONDS, clean_environment, retrain_worker
from tests.seed_tree import END, SECRETS, make, seed_tree, trades

SECTIONS = [
    "1. Storage overview",
    "2. Data discovery results",
    "3. Schema of ai_training_samples",
    "4. Data quality analysis",
    "5. Sample row (masked)",
    "6. Related data assets",
    "7. Service data paths",
    "8. Conclusion and recommendations",
    "9. Next steps",
    "10. Proof summary",
    "11. Which of this can train PatchTST",
]


def discover(root: Path, out: Path, *options: object, **settings: object) -> SimpleNamespace:
    done = retrain_worker("discover", root, "--out", out, *options, REDIS_URL="redis://127.0.0.1:1/0", **settings)
    texts = sorted(out.glob("PROOF_PACK_*.json")), sorted(out.glob("PROOF_PACK_*.md"))
    return SimpleNamespace(
        code=done.returncode,
        screen=done.stdout,
        stderr=done.stderr,
        pack=json.loads(texts[0][-1].read_text()) if texts[0] else {},
        markdown=texts[1][-1].read_text() if texts[1] else "",
    )


def state_of(root: Path) -> dict[str, str]:
    return {
        os.fsencode(path).hex(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in root.rglob("*")
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("discover")
    root, out = folder / "host", folder / "packs"
    root.mkdir()
    source = seed_tree(root)
    before = state_of(root)
    found = discover(root, out, "--env-file", root / "etc/quantum/retraining-worker.env")
    found.root, found.source, found.before, found.after = root, source, before, state_of(root)
    return found


def names(paths: Iterable[str]) -> set[str]:
    return {path.rsplit("/", 1)[-1] for path in paths}


def by_role(pack: dict[str, Any]) -> dict[str, set[str]]:
    roles: dict[str, set[str]] = {}
    for each in pack["databases"]:
        roles.setdefault(each["role"], set()).add(each["file"]["path"])
    return roles


def test_the_training_source_is_found_and_ready(seen: SimpleNamespace) -> None:
    assert (seen.code, seen.pack["is_ready"]) == (0, True)
    assert seen.pack["source"]["path"] == str(seen.source)
    assert seen.pack["source"]["rows"] == 2060
    assert "**READY**" in seen.markdown
    assert seen.screen.startswith("verdict     READY\n")


def test_every_database_has_its_role(seen: SimpleNamespace) -> None:
    at = seen.root
    assert by_role(seen.pack) == {
        "SOURCE": {str(seen.source)},
        "BACKUP": {f"{at}/home/qt/quantum_backups/pre_cleanup/quantum_trader.db", f"{at}/root/earlier_copy"},
        "EMPTY": {f"{at}/home/qt/quantum.db", f"{at}/home/qt/no_rows.db"},
        "UNRELATED": {f"{at}/opt/quantum/data/trades.db", f"{at}/home/qt/quantum_trader/runtime/trades.db"},
        "UNREADABLE": {f"{at}/home/qt/damaged.db", f"{at}/home/qt/notes.db"},
    }
    why = {each["file"]["path"]: each["why"] for each in seen.pack["databases"]}
    assert why[f"{at}/home/qt/quantum_backups/pre_cleanup/quantum_trader.db"].startswith("the same 2,060 training rows")
    assert why[f"{at}/root/earlier_copy"].startswith("an earlier state of the source, which has 1,545 of its 1,545")


def test_a_wrong_path_is_reported_in_every_file_that_names_it_and_only_there(seen: SimpleNamespace) -> None:
    wrong = {
        (each["where"].removeprefix(str(seen.root)), each["name"]): each["finding"]
        for each in seen.pack["configured"]
        if each["is_wrong"]
    }
    assert set(wrong) == {
        ("/etc/quantum/retraining-worker.env", "DB_PATH"),
        ("/home/qt/quantum_trader/scripts/retrain_patchtst_p06.py:3", "db_path"),
        ("/etc/systemd/system/quantum-ai-engine.service", "DB_PATH"),
    }
    assert "0 bytes" in wrong["/etc/quantum/retraining-worker.env", "DB_PATH"]
    assert f"WRONG PATH  {seen.root}/etc/quantum/retraining-worker.env" in seen.screen


def test_the_next_command_works_unchanged(seen: SimpleNamespace) -> None:
    *changes, command = seen.pack["next_commands"]
    assert changes == [
        f"# in {seen.root}/etc/quantum/retraining-worker.env: DB_PATH={seen.source} "
        f"instead of {seen.root}/home/qt/quantum.db"
    ]
    program, verb, *rest = command.split(" ")
    assert (program, verb) == ("retrain-worker", "once")
    audited = retrain_worker("audit", *rest)
    assert audited.returncode == 0
    assert "fit to train on: 2060 rows" in audited.stdout


def test_the_other_files_are_described(seen: SimpleNamespace) -> None:
    csv = {each["file"]["path"].rsplit("/", 1)[-1]: each for each in seen.pack["csv_files"]}
    assert {name for name, each in csv.items() if each["is_candles"]} >= {"BTCUSDT.csv", "ETHUSDT_1m"}
    assert csv["BTCUSDT.csv"]["first_at"].startswith("2025-12-04T00:00")
    assert csv["binance_training_data_full.csv"]["rows"] == 7
    models = {each["file"]["path"].rsplit("/", 1)[-1]: each["what"] for each in seen.pack["models"]}
    assert models == {
        "ppo_model.pt": "PyTorch file, 3 tensors: policy.0.weight, policy.0.bias, value.0.weight",
        "sandbox_model.pt": "PyTorch file, 1 tensors: policy.0.weight",
        "patchtst_v20260109_233444.pth": "PyTorch file, 1 tensors: patch_embedding.weight",
        "scaler.pkl": "pickle of sklearn.preprocessing._.Standard",
        "bomb.pkl": "pickle of posix.system",
        "actor.safetensors": "safetensors, 1 tensors: actor.weight",
        "net.onnx": "ONNX model",
    }
    lines = {each["file"]["path"].rsplit("/", 1)[-1]: each["lines"] for each in seen.pack["observations"]}
    assert lines == {"policy_obs_2025-11-22.jsonl": 88, "signals_2025-11-22.jsonl": 510}
    assert {each["what"] for each in seen.pack["redis_files"]} == {
        "Redis dump, RDB version 11",
        "Redis append-only file",
    }
    assert "cannot be reached" in seen.pack["redis"]["problem"]


def test_copies_and_links_of_a_file_are_reported(seen: SimpleNamespace) -> None:
    csv = {each["file"]["path"]: each["file"] for each in seen.pack["csv_files"]}
    name = "binance_training_data_full.csv"
    primary = f"{seen.root}/opt/quantum/data/{name}"
    assert csv[f"{seen.root}/root/quantum_trader/data/{name}"]["same_as"] == primary
    assert csv[primary]["links"] == [f"{seen.root}/home/qt/quantum_trader/data/{name}"]


def test_units_and_env_files_of_the_stack_are_shown_without_a_secret(seen: SimpleNamespace) -> None:
    (unit,) = seen.pack["units"]
    assert (unit["user"], unit["working_directory"]) == ("qt", "/home/qt/quantum_trader")
    assert unit["exec_start"] == "/opt/quantum/venvs/ai-engine/bin/python -m engine --api-secret ***"
    engine = next(each for each in seen.pack["env_files"] if each["file"]["path"].endswith("ai-engine.env"))
    assert engine["values"] == {
        "PATCHTST_MODEL_PATH": "/opt/quantum/ai_engine/models/patchtst_v20260109_233444.pth",
        "PATCHTST_SHADOW_ONLY": "true",
        "BINANCE_API_SECRET": "***",
        "REDIS_PASSWORD": "***",
        "REDIS_URL": "redis://:***@localhost:6379/0",
    }
    everything = json.dumps(seen.pack) + seen.markdown + seen.screen + seen.stderr
    assert [secret for secret in SECRETS if secret in everything] == []


def test_only_the_source_can_train(seen: SimpleNamespace) -> None:
    suitable = {each["dataset"].split(":")[0]: each["is_suitable"] for each in seen.pack["suitability"]}
    assert suitable == {
        "ai_training_samples": True,
        "backup databases": False,
        "unrelated databases": False,
        "candle files": False,
        "CSV tables": False,
        "model files": False,
        "observations": False,
        "Redis": False,
        "services": False,
    }
    assert all(each["why"] for each in seen.pack["suitability"])


def test_the_markdown_has_the_sections_of_the_seed_and_no_name_breaks_out(seen: SimpleNamespace) -> None:
    assert [line[3:] for line in seen.markdown.splitlines() if line.startswith("## ")] == SECTIONS
    assert seen.markdown.replace("\n", "").isprintable()
    rows = [line for line in seen.markdown.splitlines() if "evil" in line and line.startswith("| ``/")]
    assert rows
    assert all(line.replace("\\|", "").count("|") == 7 for line in rows)


def test_the_source_is_described_as_the_seed_did(seen: SimpleNamespace) -> None:
    source = seen.pack["source"]
    assert len(source["columns"]) == 24
    assert source["classes"] == {"WIN": 1114, "LOSS": 886, "none (open)": 60}
    assert len(source["symbols"]) == 5
    assert source["features"] == {"array of 4": 2060}
    assert "WIN" in source["sample_note"]
    assert "contradict realized\\_pnl" in seen.markdown
    assert {each["name"] for each in seen.pack["quality"]["findings"]} >= {"rows.labelled", "features.leak"}


def test_no_file_was_changed_and_nothing_was_executed(seen: SimpleNamespace) -> None:
    assert seen.after == seen.before
    assert not Path("/tmp/retrain-worker-bomb").exists()


def test_no_link_leads_out(seen: SimpleNamespace) -> None:
    assert "outside.db" not in json.dumps(seen.pack["databases"])
    assert names(line.split(" -> ")[0] for line in seen.pack["walk"]["links_out"]) == {"leads_out"}


def test_a_tree_without_training_data_is_not_ready(tmp_path: Path) -> None:
    trades(tmp_path / "host/trades.db")
    found = discover(tmp_path / "host", tmp_path / "out", "--home", tmp_path / "home")
    assert (found.code, found.pack["is_ready"], found.pack["source"]) == (11, False, None)
    assert found.pack["reasons"] == ["no database with rows in ai_training_samples was found"]
    assert found.pack["next_commands"] == [f"retrain-worker discover / --cross-file-systems --home {tmp_path / 'home'}"]
    assert [line[3:] for line in found.markdown.splitlines() if line.startswith("## ")] == SECTIONS
    assert not (tmp_path / "home").exists()


def test_an_unfit_source_is_not_ready_with_the_reasons(tmp_path: Path) -> None:
    path = make(tmp_path / "host/a 'b' $c.db")
    path.unlink()
    write_market(path, seed=3, end=END, rows=300)
    found = discover(tmp_path / "host", tmp_path / "out", "--home", tmp_path / "home")
    assert found.code == 11
    assert any("at least 1,000 are needed" in reason or "1,000" in reason for reason in found.pack["reasons"])
    assert found.pack["next_commands"][-1].startswith("retrain-worker audit --db '")


def test_a_source_with_a_pending_wal_is_audited_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    write_market(tmp_path / "x.db", seed=3, end=END, rows=1_200)
    with closing(sqlite3.connect(tmp_path / "x.db")) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("UPDATE ai_training_samples SET model_version = 'later'")
        writer.commit()
        for suffix in ("", "-wal"):
            shutil.copyfile(tmp_path / f"x.db{suffix}", tmp_path / f"host/x.db{suffix}")
    before = state_of(tmp_path / "host")
    found = discover(tmp_path / "host", tmp_path / "out", "--home", tmp_path / "home")
    assert (found.code, found.pack["source"]["path"]) == (0, str(tmp_path / "host/x.db"))
    assert state_of(tmp_path / "host") == before


def test_json_is_the_pack_and_nothing_is_overwritten(tmp_path: Path) -> None:
    trades(tmp_path / "host/trades.db")
    first = discover(tmp_path / "host", tmp_path / "out", "--home", tmp_path / "home", "--json")
    assert json.loads(first.screen) == first.pack
    discover(tmp_path / "host", tmp_path / "out", "--home", tmp_path / "home")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_missing_databases_are_reported_without_a_source(tmp_path: Path) -> None:
    gone = tmp_path / "host/data/gone.db"
    trades(tmp_path / "host/trades.db")
    make(tmp_path / "host/app.env", f"TRADING_DB_URL=sqlite:///{gone}\n")
    make(tmp_path / "host/app.py", f'import sqlite3\nconnection = sqlite3.connect("{gone}")\n')
    make(tmp_path / "host/quantum-app.service", f"[Unit]\n[Service]\nExecStart=/usr/bin/app --db {gone}\n")
    found = discover(tmp_path / "host", tmp_path / "out", "--home", tmp_path / "home")
    host = tmp_path / "host"
    wrong = {(each["where"], each["name"], each["finding"]) for each in found.pack["configured"] if each["is_wrong"]}
    assert wrong == {
        (f"{host}/app.env", "TRADING_DB_URL", "no such file"),
        (f"{host}/app.py:2", "sqlite3", "no such file"),
        (f"{host}/quantum-app.service", "ExecStart", "no such file"),
    }
    assert found.screen.count(f"={gone}: no such file") == 3
    assert found.markdown.count("no such file | WRONG") == 3


class OnTerminal:
    """The command with its stderr on a terminal."""

    def __init__(self, *arguments: object) -> None:
        self.terminal, stderr = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, "discover", *map(str, arguments)],
            env=clean_environment(TERM="xterm", COLUMNS="200"),
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        os.close(stderr)
        os.set_blocking(self.terminal, False)
        self.shown = b""

    def __enter__(self) -> "OnTerminal":
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.terminal)

    def ended(self) -> bytes:
        """Its stdout; what it still writes to the terminal is read, so that it does not wait for a reader."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < until, self.shown
            self.read()
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def read(self) -> None:
        time.sleep(0.02)
        with suppress(OSError):
            self.shown += os.read(self.terminal, 1 << 16)

    def wait_for(self, text: bytes) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            assert self.process.poll() is None, self.shown
            self.read()


@pytest.fixture
def slow_host(tmp_path: Path) -> Path:
    """Two databases; counting the rows of the second one takes a minute."""
    trades(tmp_path / "host/a.db")
    trades(tmp_path / "host/b.db")
    with closing(sqlite3.connect(tmp_path / "host/b.db")) as database, database:
        database.execute(
            "CREATE VIEW ai_training_samples AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT i AS id, 'X' AS symbol, '2026-01-01' AS timestamp, '[1]' AS features, 'WIN' AS target_class FROM n"
        )
    return tmp_path / "host"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_search_with_an_incomplete_pack(tmp_path: Path, slow_host: Path, number: int) -> None:
    with OnTerminal(slow_host, "--out", tmp_path / "out", "--home", tmp_path / "home") as running:
        running.wait_for(b"host/b.db")
        assert b"reading databases" in running.shown
        running.process.send_signal(number)
        screen = running.ended()
    assert running.process.returncode == 12
    assert screen.startswith(b"verdict     INCOMPLETE\n")
    (written,) = (tmp_path / "out").glob("*.json")
    pack = json.loads(written.read_text())
    assert pack["interrupted"] == "reading databases"
    assert {Path(each["file"]["path"]).name: each["why"] for each in pack["databases"]} == {
        "a.db": "no table ai_training_samples",
        "b.db": "not read: the search was interrupted",
    }
    assert "INCOMPLETE" in written.with_suffix(".md").read_text()


def test_a_signal_during_the_audit_keeps_the_pack(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    write_market(tmp_path / "host/x.db", seed=3, end=END, rows=1_200)
    with OnTerminal(tmp_path / "host", "--out", tmp_path / "out", "--home", tmp_path / "home") as running:
        running.wait_for(b"auditing the source")
        running.process.send_signal(signal.SIGTERM)
        running.ended()
    assert running.process.returncode == 12
    (written,) = (tmp_path / "out").glob("*.json")
    pack = json.loads(written.read_text())
    assert (pack["interrupted"], pack["quality"], pack["source"]["rows"]) == ("auditing the source", None, 1260)


def test_without_a_terminal_nothing_is_written_to_stderr(seen: SimpleNamespace) -> None:
    assert seen.stderr == ""


@pytest.mark.parametrize(("root", "out"), [("gone", "out"), ("host", "file/out")])
def test_wrong_usage_is_one_message(tmp_path: Path, root: str, out: str) -> None:
    make(tmp_path / "file")
    (tmp_path / "host").mkdir()
    done = retrain_worker("discover", tmp_path / root, "--out", tmp_path / out, "--home", tmp_path / "home")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
