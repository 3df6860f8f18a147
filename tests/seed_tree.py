"""A tree with every kind of file that the seed's proof pack names, each made by hand."""

import json
import os
import pickle
import shutil
import sqlite3
import zipfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrain_worker.demo.market import write_market
from retrain_worker.discovery.directory_walk import DirectoryWalk, Found, distinct_roots
from retrain_worker.discovery.progress import Progress
from retrain_worker.discovery.proof_pack import Walk

END = datetime(2025, 12, 30, 21, 0, tzinfo=UTC)
SECRETS = ("hunter2", "s3cr3t-binance", "tok-en-1234", "pa55-in-url", "x-option-secret")
HOSTILE = "evil`|\n# <b onclick=alert(1)>\x1b[31m.csv"


def seed_tree(root: Path, *, rows: int = 2_000, seed: int = 5) -> Path:
    """Fill `root`; gives the path of the training source."""
    source = _databases(root, rows=rows, seed=seed)
    _tables(root)
    _models(root / "opt/quantum/data/rl_v3")
    _observations(root / "opt/quantum/data/policy_observations")
    _redis(root / "var/lib/redis")
    _services(root, source)
    _oddities(root, source)
    return source


def walk(*roots: Path, cross_file_systems: bool = False) -> tuple[list[Found], Walk]:
    """The files of a known kind below `roots`, and what was not examined."""
    walker = DirectoryWalk(roots=distinct_roots(roots), cross_file_systems=cross_file_systems, progress=Progress())
    walker.run()
    return walker.found(), walker.walked()


def make(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def torch_zip(path: Path, *names: str) -> Path:
    """What torch.save writes, as far as anybody can see who does not load it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(dict.fromkeys(names, 0.0), protocol=2))
        for number, _ in enumerate(names):
            archive.writestr(f"{path.stem}/data/{number}", b"\0" * 64)
    return path


def candles(path: Path, *, rows: int = 50, header: bool = True) -> Path:
    start = int(datetime(2025, 12, 4, tzinfo=UTC).timestamp() * 1000)
    lines = ["open_time,open,high,low,close,volume"] if header else []
    lines += [f"{start + minute * 60_000},100.5,101.0,99.5,{100 + minute / 100},12.5" for minute in range(rows)]
    return make(path, "\n".join(lines) + "\n")


def trades(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE trades (id INTEGER PRIMARY KEY, symbol TEXT)")
        database.executemany("INSERT INTO trades (symbol) VALUES (?)", [("BTCUSDT",)] * 7)
    return path


def _databases(root: Path, *, rows: int, seed: int) -> Path:
    source = root / "opt/quantum/data/quantum_trader.db"
    source.parent.mkdir(parents=True)
    write_market(source, seed=seed, end=END, rows=rows)
    backup = root / "home/qt/quantum_backups/pre_cleanup/quantum_trader.db"
    backup.parent.mkdir(parents=True)
    shutil.copyfile(source, backup)
    earlier = root / "root/earlier_copy"  # no suffix: found by content
    earlier.parent.mkdir(parents=True)
    shutil.copyfile(source, earlier)
    with closing(sqlite3.connect(earlier)) as database, database:
        database.execute("DELETE FROM ai_training_samples WHERE id % 4 = 0")
        database.execute("UPDATE ai_training_samples SET target_class = NULL WHERE id % 50 = 1")
    make(root / "home/qt/quantum.db")
    trades(root / "opt/quantum/data/trades.db")
    trades(root / "home/qt/quantum_trader/runtime/trades.db")
    with closing(sqlite3.connect(root / "home/qt/no_rows.db")) as database, database:
        database.execute("CREATE TABLE settings (id INTEGER, api_key TEXT)")
    make(root / "home/qt/damaged.db", source.read_bytes()[:20_000])
    make(root / "home/qt/notes.db", "dear diary\n" * 20)
    return source


def _tables(root: Path) -> None:
    training = root / "opt/quantum/data/binance_training_data_full.csv"
    make(
        training,
        "timestamp,symbol,rsi,label\n" + "".join(f"2025-12-0{day} 00:00:00,BTCUSDT,{day}.5,1\n" for day in range(1, 8)),
    )
    make(root / "root/quantum_trader/data/binance_training_data_full.csv", training.read_bytes())
    link = root / "home/qt/quantum_trader/data/binance_training_data_full.csv"
    link.parent.mkdir(parents=True)
    link.symlink_to(training)
    candles(root / "opt/quantum/data/market_data/latest/BTCUSDT.csv")
    candles(root / "opt/quantum/data/market_data/latest/ETHUSDT_1m", header=False)  # no suffix, no header


def _models(folder: Path) -> None:
    torch_zip(folder / "ppo_model.pt", "policy.0.weight", "policy.0.bias", "value.0.weight")
    torch_zip(folder / "sandbox_model.pt", "policy.0.weight")
    torch_zip(folder.parents[1] / "ai_engine/models/patchtst_v20260109_233444.pth", "patch_embedding.weight")
    make(folder / "scaler.pkl", b"\x80\x04\x95 \0\0\0\0\0\0\0\x8c\x17sklearn.preprocessing._\x8c\x08Standard\x93.")
    header = b'{"actor.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    make(folder / "actor.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 4)
    make(folder / "net.onnx", b"\x08\x08\x12\x07pytorch" + b"\0" * 20)
    make(folder / "bomb.pkl", pickle.dumps(_Bomb(), protocol=2))


class _Bomb:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/retrain-worker-bomb",)


def _observations(folder: Path) -> None:
    for name, number in (("policy_obs_2025-11-22.jsonl", 88), ("signals_2025-11-22.jsonl", 510)):
        lines = (
            {"timestamp": f"2025-11-22T{minute // 60:02}:{minute % 60:02}:00Z", "regime": "bull", "risk_state": {}}
            for minute in range(number)
        )
        make(folder / name, "".join(json.dumps(line) + "\n" for line in lines))


def _redis(folder: Path) -> None:
    make(folder / "dump.rdb", b"REDIS0011\xfa\tredis-ver\x057.0.0\xff")
    make(folder / "appendonlydir/appendonly.aof.1.incr.aof", b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n")


def _services(root: Path, source: Path) -> None:
    etc = root / "etc/quantum"
    model = "/opt/quantum/ai_engine/models/patchtst_v20260109_233444.pth"
    make(
        etc / "ai-engine.env",
        f"# engine\nPATCHTST_MODEL_PATH={model}\n"
        f"PATCHTST_SHADOW_ONLY=true\nBINANCE_API_SECRET={SECRETS[1]}\nREDIS_PASSWORD={SECRETS[0]}\n"
        f"REDIS_URL=redis://:{SECRETS[3]}@localhost:6379/0\nLOGLEVEL=INFO\n",
    )
    make(etc / "retraining-worker.env", f"MODEL_PATH=/data/quantum/models\nDB_PATH={root}/home/qt/quantum.db\n")
    make(etc / "clm.env", f"DATABASE_URL=sqlite:///{root}/opt/quantum/data/trades.db\n")
    make(etc / "rl-sizer.env", f"MODEL_PATH=/data/quantum/models/rl_sizer\nDB_PATH={source}\n")
    units = root / "etc/systemd/system"
    make(
        units / "quantum-ai-engine.service",
        "[Unit]\nDescription=engine\n\n[Service]\nUser=qt\nWorkingDirectory=/home/qt/quantum_trader\n"
        f'EnvironmentFile={etc}/ai-engine.env\nEnvironment="API_TOKEN={SECRETS[2]}" DB_PATH={root}/gone.db\n'
        f"ExecStart=/opt/quantum/venvs/ai-engine/bin/python \\\n    -m engine --api-secret {SECRETS[4]}\n",
    )
    make(units / "cron.service", "[Unit]\nDescription=cron\n[Service]\nExecStart=/usr/sbin/cron -f\n")
    make(
        root / "home/qt/quantum_trader/scripts/retrain_patchtst_p06.py",
        f'import sqlite3\n# db_path = "{root}/home/qt/no_rows.db"\ndb_path = "{root}/home/qt/quantum.db"\n',
    )


def _oddities(root: Path, source: Path) -> None:
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    shutil.copyfile(source, outside / "outside.db")
    (root / "opt/quantum/data/leads_out").symlink_to(outside)
    (root / "opt/quantum/loop").symlink_to(root / "opt")
    (root / "opt/quantum/dangling").symlink_to(root / "nowhere")
    candles(root / "opt/quantum/data" / HOSTILE)
    candles(root / "opt/quantum/data" / os.fsdecode(b"\xff\xfe.csv"))
    os.mkfifo(root / "opt/quantum/data/pipe.db")
    make(root / "opt/quantum/readme.md", "# nothing\n")
    make(root / "opt/quantum/module.py", "print(1, 2, 3)\n" * 5)
