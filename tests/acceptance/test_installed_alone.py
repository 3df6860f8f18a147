"""The wheel in a fresh environment without the daemon's packages: a consumer needs redis and msgspec, nothing else.

Offline: the wheel is built with the setuptools that is here, and the two packages are linked in from here.
"""

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
import redis

from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.cli.verbs import VERBS
from retrain_worker.domain.events import EventType
from tests.redis_world import Clock, RedisServer, an_event, enqueue

ROOT = Path(__file__).parents[2]
BASE = ("redis", "msgspec")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel and its base dependencies only."""
    folder = tmp_path_factory.mktemp("alone")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run(
        [
            *pip,
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--wheel-dir",
            folder,
            _clean_copy(folder / "source"),
        ],
        check=True,
        capture_output=True,
    )
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    [wheel] = folder.glob("retrain_worker-*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    for name in BASE:
        found = distribution(name)
        for top in {Path(str(file)).parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (packages / top).symlink_to(str(found.locate_file(top)))
    return python.parent


def _clean_copy(target: Path) -> Path:
    """What setuptools needs, without what earlier builds have left."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "retrain_worker"):
        subprocess.run(["cp", "-r", ROOT / name, target], check=True)
    return target


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=environment)


def test_the_wheel_names_no_package_that_is_not_the_consumers(alone: Path) -> None:
    code = (
        "import importlib.metadata as m, re;"
        "print(sorted(re.match('[a-z]+', r).group() for r in m.requires('retrain-worker') if 'extra' not in r))"
    )

    assert run(alone / "python", "-c", code).stdout.strip() == str(sorted(BASE))


def test_serving_can_be_imported_and_events_come(
    alone: Path,
    redis_server: RedisServer,
    client: redis.Redis,
    outbox: StateDb,
    clock: Clock,
) -> None:
    enqueue(outbox, an_event(1, EventType.SKIPPED, reasons=["few rows"]))
    Relay(client, outbox, clock).relay_once()
    code = (
        "import sys; from retrain_worker.serving import *;"
        f"events = ModelEvents({redis_server.url!r}, group='g', consumer='c');"
        "event = next(iter(events)); events.acknowledge(event); print(event.payload['reasons']);"
        f"AsyncModelEvents({redis_server.url!r}, group='g', consumer='c');"
        f"ModelFollower({redis_server.url!r}, consumer='c');"
        f"AsyncModelFollower({redis_server.url!r}, consumer='c');"
        "print([m for m in ('torch', 'numpy', 'structlog', 'sqlalchemy') if m in sys.modules])"
    )

    done = run(alone / "python", "-c", code)

    assert done.stdout.split("\n")[:2] == ["['few rows']", "[]"], done.stderr


def test_events_tail_works_and_a_verb_of_the_daemon_says_which_extra_is_missing(
    alone: Path,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    places = {"REDIS_URL": redis_server.url, "DB_PATH": "/nowhere.db"}
    assert run(alone / "retrain-worker", "events", "tail", **places).returncode == 0

    done = run(alone / "retrain-worker", "once", "--db", "/nowhere.db", "--home", tmp_path / "home")

    assert done.returncode == 2
    assert "pip install '/path/to/retrain_worker[daemon]'" in done.stderr
    assert "Traceback" not in done.stderr


#: every verb with arguments that reach its packages; paths are relative to the folder of the test
CALLS = {
    "demo": "--home home",
    "init-db": "new.db",
    "discover": "folder",
    "check": "--home home",
    "audit": "--db trader.db",
    "once": "--db trader.db --home home",
    "run": "--db trader.db --home home",
    "trigger": "--home home",
    "status": "--home home",
    "watch": "--home home",
    "history": "--home home",
    "gates": "--home home",
    "report": "--home home",
    "deployments": "--home home",
    "events": "schemas --to schemas",
    "rollback": "--home home --reason x",
    "pause": "--home home --reason x",
    "resume": "--home home",
    "promote": "20260110_033000 --home home --force --reason x",
    "restart-engine": "--home home",
    "inspect": "model.pth",
    "evaluate": "model.pth --db trader.db --home home",
    "export": "model.pth --format onnx",
    "config": "show --home home",
    "reload": "--home home",
    "access": "grant --home home --help",  # as root it would change this host
    "redis-acl": "",
    "keygen": "signing.key",
    "completion": "bash",
}


def test_every_verb_has_a_call() -> None:
    assert set(CALLS) == set(VERBS)


@pytest.mark.parametrize("verb", CALLS)
def test_a_verb_works_or_names_the_extra(alone: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("trader.db", "model.pth"):
        (tmp_path / name).touch()
    command = [str(alone / "retrain-worker"), verb, *CALLS[verb].split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env={}, timeout=240)

    assert "Traceback" not in done.stderr
    if "which is not installed" in done.stderr or "need the package" in done.stderr:
        assert "pip install '/path/to/retrain_worker[" in done.stderr
        assert done.returncode in (2, 78), done.stderr


def test_a_model_without_torch_is_a_problem_that_says_so(
    alone: Path,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    (tmp_path / "engine.env").write_text("PATCHTST_MODEL_PATH=/opt/quantum/ai_engine/models/m.pth\n")
    code = (
        "from pathlib import Path; from retrain_worker.serving import ModelFollower;"
        f"f = ModelFollower({redis_server.url!r}, consumer='c', env_file=Path({str(tmp_path / 'engine.env')!r}));"
        "f.start(); print(f.problem); f.stop()"
    )

    assert "retrain_worker[serving]" in run(alone / "python", "-c", code).stdout
