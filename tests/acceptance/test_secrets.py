"""A password in a URL of any form is in no file, event, log, environment or command line, whether the run succeeds.

`python -m pytest -s tests/acceptance/test_secrets.py` prints the table of the forms.
"""

import json
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, quote_plus

import psutil
import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from retrain_worker import signing
from retrain_worker.adapters.embedded_redis import find_server
from retrain_worker.demo.market import write_market
from tests.acceptance.conftest import COMMAND, PATIENCE_SECONDS, clean_environment
from tests.worker.postgres_server import INITDB, PostgresServer, insert_rows, make_table, postgres_server
from tests.worker.trading_database import COLUMNS, make_rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(INITDB is None, reason="no PostgreSQL server on this host")]

PLAIN, AWKWARD = "s3cret-w0rd", "s3c/r#t@w0:rd% x?y"
REFUSED, FAILED, SETTINGS = 11, 1, 78


@dataclass(frozen=True, kw_only=True)
class Form:
    """A setting that holds a password: {p} as it is, {q} percent-encoded. {h} is the server, {s} its socket."""

    name: str
    text: str
    password: str = PLAIN
    setting: str = "DATABASE_URL"
    is_accepted: bool = True


POSTGRES = [
    Form(name="userinfo", text="postgresql://reader:{p}@{h}/postgres"),
    Form(name="percent-encoded", text="postgresql://reader:{q}@{h}/postgres", password=AWKWARD),
    Form(name="with /", text="postgresql://reader:{p}@{h}/postgres", password="s3c/r3t/w0rd"),
    Form(name="with @", text="postgresql://reader:{p}@{h}/postgres", password="s3c@r3t@w0rd"),
    Form(name="with #", text="postgresql://reader:{p}@{h}/postgres", password="s3c#r3t"),
    Form(name="with : and %", text="postgresql://reader:{p}@{h}/postgres", password="s3c:r3t%w0rd"),
    Form(name="with ?", text="postgresql://reader:{p}@{h}/postgres", password="s3c?r3t", is_accepted=False),
    Form(name="?password=", text="postgresql://reader@{h}/postgres?password={p}"),
    Form(name="?password= encoded", text="postgresql://{h}/postgres?user=reader&password={q}", password=AWKWARD),
    Form(name="?password= @", text="postgresql://{h}/postgres?password={p}", password="s3c@r3t", is_accepted=False),
    Form(name="?pass%77ord=", text="postgresql://reader@{h}/postgres?pass%77ord={p}"),
    Form(name="both, the first wrong", text="postgresql://reader:other-s3cret-w0rd@{h}/postgres?password={p}"),
    Form(name="?sslpassword=", text="postgresql://reader:{p}@{h}/postgres?sslpassword={p}"),
    Form(name="socket", text="postgres://reader:{p}@/postgres?host={s}"),
    Form(name="asyncpg", text="postgresql+asyncpg://reader:{q}@{h}/postgres?ssl=disable", password=AWKWARD),
    Form(name="psycopg2, upper case", text="POSTGRESQL+psycopg2://reader:{q}@{h}/postgres", password="s3crét"),
    Form(name="libpq keywords", text="host=127.0.0.1 user=reader password={p} dbname=postgres", is_accepted=False),
    Form(name="one slash", text="postgresql:/reader:{p}@{h}/postgres", is_accepted=False),
    Form(name="no scheme", text="reader:{p}@{h}/postgres", is_accepted=False),
    Form(name="port is a word", text="postgresql://reader:{p}@127.0.0.1:{p}/postgres", is_accepted=False),
    Form(name="in DB_PATH", text="postgresql://reader:{p}@{h}/postgres", setting="DB_PATH", is_accepted=False),
]
REDIS = [
    Form(name="redis userinfo", text="redis://:{p}@{h}/0", setting="REDIS_URL"),
    Form(name="redis encoded", text="redis://default:{q}@{h}/0", password=AWKWARD, setting="REDIS_URL"),
    Form(name="redis with / @ #", text="redis://:{p}@{h}/0", password="s3c/r#t@w0rd", setting="REDIS_URL"),
    Form(name="redis ?password=", text="redis://{h}/0?password={p}", setting="REDIS_URL"),
    Form(name="redis socket", text="unix://:{p}@{s}?db=0", setting="REDIS_URL"),
    Form(name="REDIS_PASSWORD", text="{p}", password=AWKWARD, setting="REDIS_PASSWORD"),
    Form(name="redis port is a word", text="redis://:{p}@127.0.0.1:{p}/0", setting="REDIS_URL", is_accepted=False),
]


def spellings(password: str) -> set[bytes]:
    found = {password, quote(password), quote(password, safe=""), quote_plus(password), quote(password, safe=" +")}
    return {each.encode() for each in found} | {json.dumps(each)[1:-1].encode() for each in found}


class Processes:
    """Environment and command line of a process and its descendants, watched while it runs."""

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}
        self._is_over = threading.Event()

    def run(self, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        with subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=clean_environment(LOGLEVEL="DEBUG"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            watch = threading.Thread(target=self._watch, args=(process.pid,))
            watch.start()
            try:
                stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
            finally:
                self._is_over.set()
                watch.join()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def _watch(self, pid: int) -> None:
        while not self._is_over.wait(0.01):
            try:
                root = psutil.Process(pid)
                for process in [root, *root.children(recursive=True)]:
                    folder = Path(f"/proc/{process.pid}")
                    command = (folder / "cmdline").read_bytes()
                    self.seen[f"{process.pid} {command[:200]!r}"] = command + (folder / "environ").read_bytes()
            except (psutil.NoSuchProcess, OSError):
                continue


@dataclass(frozen=True, kw_only=True)
class Redis:
    """A server with a TCP port, a socket, and a user of our own beside the default one."""

    port: int
    socket: Path
    admin: redis.Redis

    def contents(self) -> dict[bytes, bytes]:
        return {key: repr(self.admin.xrange(key)).encode() for key in self.admin.scan_iter(_type="stream")} | {
            key: repr(self.admin.hgetall(key)).encode() for key in self.admin.scan_iter(_type="hash")
        }


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server(password="of-the-superuser") as server:
        with server.connect() as connection:
            make_table(connection, make_rows(60))
            connection.execute("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data")
        yield server


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="redis"))
    (folder / "conf").write_text(f'port {port}\nunixsocket s\nsave ""\nuser admin on >a ~* &* +@all\n')
    with subprocess.Popen([find_server(), "conf"], cwd=folder, stdout=subprocess.DEVNULL) as process:
        server = Redis(
            port=port,
            socket=folder / "s",
            admin=redis.Redis(port=port, username="admin", password="a", retry=Retry(ConstantBackoff(0.05), 200)),
        )
        server.admin.ping()
        yield server
        server.admin.close()
        process.terminate()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("market") / "t.db"
    write_market(path, seed=3, end=datetime.now(UTC) - timedelta(hours=1), rows=60)
    return path


def places_of(
    secrets: set[bytes], home: Path, watched: Processes, done: subprocess.CompletedProcess[bytes]
) -> list[str]:
    """Where one of the secrets is found."""
    contents = {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    contents |= watched.seen | {"stdout": done.stdout, "stderr": done.stderr}
    return [name for name, content in contents.items() if any(secret in content for secret in secrets)]


def settings_file(folder: Path, form: Form, value: str, **others: object) -> Path:
    """Only the owner reads it. The home is beside it."""
    path = folder / "settings.env"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    path.write_text("".join(f"{name}={text}\n" for name, text in others.items()) + f'{form.setting}="{quoted}"\n')
    path.chmod(0o600)
    return path


def value_of(form: Form, *, host: str, socket: str) -> str:
    text = form.text
    for mark, value in (("{h}", host), ("{s}", socket), ("{q}", quote(form.password, safe="")), ("{p}", form.password)):
        text = text.replace(mark, value)
    return text


def report(form: Form, done: subprocess.CompletedProcess[bytes], watched: Processes, found: list[str]) -> None:
    where = ", ".join(found) or "nowhere"
    print(f"\n| {form.name} | `{form.setting}={form.text}` | exit {done.returncode} | {len(watched.seen)} | {where} |")


@pytest.mark.parametrize("is_reachable", [True, False], ids=["reached", "not reached"])
@pytest.mark.parametrize("form", POSTGRES, ids=lambda form: form.name)
def test_a_password_of_the_database_is_nowhere(
    postgres: PostgresServer, tmp_path: Path, form: Form, is_reachable: bool
) -> None:
    with postgres.connect() as connection:
        connection.execute(f"ALTER ROLE reader PASSWORD '{form.password}'")
    host = f"127.0.0.1:{postgres.port if is_reachable else 1}"
    value = value_of(form, host=host, socket=f"{postgres.home if is_reachable else '/nowhere'}&port={postgres.port}")
    home, watched = tmp_path / "home", Processes()

    done = watched.run("once", "--home", home, "--json", "--env-file", settings_file(tmp_path, form, value))

    found = places_of(spellings(form.password), home, watched, done)
    report(form, done, watched, found)
    assert not found
    assert done.returncode == (SETTINGS if not form.is_accepted else REFUSED if is_reachable else FAILED), done.stderr
    if form.is_accepted:
        assert any("retrain_worker.worker" in name for name in watched.seen)
        assert list(home.rglob("report.html"))


def test_a_promotion_from_postgresql_with_a_redis_that_needs_a_password_shows_neither(
    postgres: PostgresServer, redis_server: Redis, learnable: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(learnable)) as source, postgres.connect() as connection:
        source.row_factory = sqlite3.Row
        connection.execute("TRUNCATE ai_training_samples")
        rows = source.execute(f"SELECT {', '.join(COLUMNS)} FROM ai_training_samples")
        insert_rows(connection, map(dict, rows))
        connection.execute(f"ALTER ROLE reader PASSWORD '{AWKWARD}'")
    redis_server.admin.execute_command("ACL", "SETUSER", "default", "resetpass", f">{PLAIN}")
    form = Form(name="promoted", text="postgresql://{h}/postgres?user=reader&password={q}", password=AWKWARD)
    value = value_of(form, host=f"127.0.0.1:{postgres.port}", socket="")
    redis_url, key = f"redis://:{PLAIN}@127.0.0.1:{redis_server.port}/0", signing.new_key()
    others = {"REDIS_URL": redis_url, "REDIS_PREFIX": "promoted", "SIGNING_KEY": key, "TRAIN_THREADS": 1}
    # whether the gates pass is the matter of other tests
    lenient = {"GATE_SKILL_ALPHA": 0.2, "GATE_HOLDOUT_ALPHA": 0.5, "GATE_FALSE_PROMOTIONS_PER_YEAR": 100}
    settings = settings_file(tmp_path, form, value, **others, **lenient)
    home, watched = tmp_path / "home", Processes()

    done = watched.run("once", "--home", home, "--json", "--env-file", settings)

    secrets = spellings(AWKWARD) | spellings(PLAIN) | spellings(key)
    contents = redis_server.contents()
    found = places_of(secrets, home, watched, done)
    found += [str(key) for key, content in contents.items() if any(secret in content for secret in secrets)]
    report(form, done, watched, found)
    assert done.returncode == 0, done.stderr
    assert signing.Signer(key).key_id.encode() in contents[b"promoted:stream:model.promoted"]
    assert not found


@pytest.mark.parametrize("is_right", [True, False], ids=["accepted", "refused"])
@pytest.mark.parametrize("form", REDIS, ids=lambda form: form.name)
def test_a_password_of_redis_is_nowhere(
    redis_server: Redis, market: Path, tmp_path: Path, form: Form, is_right: bool
) -> None:
    redis_server.admin.execute_command(
        "ACL", "SETUSER", "default", "resetpass", f">{form.password if is_right else 'another'}"
    )
    host = f"127.0.0.1:{redis_server.port}"
    value = value_of(form, host=host, socket=str(redis_server.socket))
    places = {"REDIS_PORT": redis_server.port} if form.setting == "REDIS_PASSWORD" else {}
    settings = settings_file(tmp_path, form, value, REDIS_PREFIX=f"x{time.monotonic_ns()}", **places)
    home, watched = tmp_path / "home", Processes()

    done = watched.run("once", "--home", home, "--db", market, "--json", "--env-file", settings)

    found = places_of(spellings(form.password), home, watched, done)
    found += [str(key) for key, content in redis_server.contents().items() if form.password.encode() in content]
    report(form, done, watched, found)
    assert not found
    assert done.returncode == (REFUSED if form.is_accepted else SETTINGS), done.stderr
    assert (b"refuses the user or password" in done.stderr) is (form.is_accepted and not is_right)
