"""Options that several verbs share, and the settings that they lead to."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker import settings
from retrain_worker.adapters import account_names
from retrain_worker.domain import env_file
from retrain_worker.domain.connection_url import has_password
from retrain_worker.domain.host_names import HostNames, command
from retrain_worker.domain.printable import printable
from retrain_worker.domain.redis_names import NAME
from retrain_worker.errors import AlreadyRunningError, RetrainError, SettingsError, UsageError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from retrain_worker.adapters.state_db import StateDb

#: the newest runs among which one that has trained is looked for
_RUNS_FOR_SECONDS = 20
_FRESH_ENGINE_ENV = """\
# Takes the place of /etc/quantum/ai-engine.env: made by `retrain-worker --home`, because no ENGINE_ENV_FILE is set.
PATCHTST_SHADOW_ONLY=true
"""


def add_places(parser: argparse.ArgumentParser) -> None:
    """--home, --instance and --env-file."""
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep everything this program writes under DIR")
    add_instance(parser)
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help=f"read settings from FILE (default without --home: {HostNames().env_file}, if it is there)",
    )


def add_instance(parser: argparse.ArgumentParser) -> None:
    """--instance."""
    parser.add_argument(
        "--instance",
        "-i",
        metavar="NAME",
        help="the worker of quantum-retraining-worker@NAME.service: its settings and directories",
    )


def add_database(parser: argparse.ArgumentParser) -> None:
    """--db."""
    parser.add_argument("--db", metavar="FILE|URL", help="the trading database (default: DB_PATH or DATABASE_URL)")


def add_limit(parser: argparse.ArgumentParser) -> None:
    """--limit."""
    parser.add_argument("--limit", "-n", type=int, default=20, metavar="N", help="the newest N (default 20)")


def add_json(parser: argparse.ArgumentParser, *, help: str = "print one JSON document") -> None:  # noqa: A002
    """--json."""
    parser.add_argument("--json", action="store_true", help=help)


def read_settings(arguments: argparse.Namespace, outside: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment, the env file (which wins, as in a unit) and credentials. Raises SettingsError.

    `outside`: the environment, or what `environment_outside` leaves of it.
    """
    problems: list[str] = []
    given = _given_in(env_file_of(arguments))
    credentials = _credentials(arguments)
    loaded = _loaded(arguments, {**outside, **given, **credentials}, problems.append)
    problems += settings.likely_misspellings(given, loaded.names)
    # a variable of another program may resemble a setting: alone it is no reason not to start
    doubtful = settings.likely_misspellings(outside.keys() - given.keys(), loaded.names)
    if problems:
        raise SettingsError((*problems, *doubtful))
    for problem in doubtful:
        warn(problem)
    return loaded


def read_valid_settings(arguments: argparse.Namespace) -> Settings:
    """Settings of a verb that an operator needs when something is wrong: an invalid one has its default.

    Each problem is a warning on stderr.
    """
    given = _or_warning(lambda: _given_in(env_file_of(arguments)))
    credentials = _or_warning(lambda: _credentials(arguments))
    loaded = _loaded(arguments, {**os.environ, **given, **credentials}, _warn_of_default)
    for problem in settings.likely_misspellings(given, loaded.names):
        _warn_of_default(problem)
    return loaded


def _loaded(
    arguments: argparse.Namespace, environment: Mapping[str, str], on_problem: Callable[[str], None]
) -> Settings:
    home, db = home_of(arguments), getattr(arguments, "db", None)
    if db is None and home is not None and not (environment.get("DB_PATH") or environment.get("DATABASE_URL")):
        with contextlib.suppress(OSError):
            db = os.fsdecode(_database_file(home).read_bytes()).strip() or None
    return settings.load(environment, home=home, db=db, host_names=host_names_of(arguments), on_problem=on_problem)


def _credentials(arguments: argparse.Namespace) -> dict[str, str]:
    return settings.credentials_in(os.environ, home=home_of(arguments), host_names=host_names_of(arguments))


def sources(arguments: argparse.Namespace) -> dict[str, str]:
    """Where the value of each setting that is given comes from, by its name or a former one."""
    path = env_file_of(arguments)
    credentials = _credentials(arguments)
    found = dict.fromkeys((name for name, value in os.environ.items() if value.strip()), "environment")
    found |= dict.fromkeys((name for name, value in _given_in(path).items() if value.strip()), str(path))
    found |= dict.fromkeys(credentials, "credential")
    return {**{settings.RENAMED[name]: source for name, source in found.items() if name in settings.RENAMED}, **found}


def daemon_pid(loaded: Settings) -> int:
    """The process that holds the lock of the state directory. Raises UsageError when there is none."""
    from retrain_worker.adapters.state_lock import holder_of

    pid = holder_of(loaded.state_path)
    if pid is None:
        raise UsageError("no daemon is running", where=str(loaded.state_path), remedy="start it")
    return pid


def configure_log(loaded: Settings, *, level: str) -> None:
    """The log of a command: entries of the journal where stderr leads there, else text, unless LOGFORMAT is set."""
    from retrain_worker.adapters import journal
    from retrain_worker.adapters.journal_stream import is_journal

    form = loaded.log_format
    if form == "auto" and not is_journal(sys.stderr.fileno()):
        form = "text"
    journal.configure(level=level, form=form)


def _or_warning(read: Callable[[], dict[str, str]]) -> dict[str, str]:
    try:
        return read()
    except SettingsError as error:
        for problem in error.problems:
            _warn_of_default(problem)
        return {}


def _warn_of_default(problem: str) -> None:
    warn(f"{problem}; the default is used")


def warn(problem: str) -> None:
    """One line on stderr."""
    print(f"retrain-worker: warning: {printable(problem)}", file=sys.stderr, flush=True)


def unknown_names(arguments: argparse.Namespace, loaded: Settings) -> tuple[str, ...]:
    """Names in the env file that are no settings."""
    return settings.unknown_names(_given_in(env_file_of(arguments)), loaded.names)


def home_of(arguments: argparse.Namespace) -> Path | None:
    """--home, absolute. Raises UsageError when it is not valid UTF-8."""
    home = Path(arguments.home).expanduser().absolute() if arguments.home else None
    if home and bytes(home).decode(errors="ignore") != str(home):
        raise UsageError("not valid UTF-8", where=printable(home), remedy="use another --home")
    return home


def host_names_of(arguments: argparse.Namespace) -> HostNames:
    """The names of the instance of --instance. Raises UsageError when it is no name, or beside --home."""
    instance: str | None = getattr(arguments, "instance", None)
    if instance is None:
        return HostNames()
    if not NAME.fullmatch(instance):
        raise UsageError("an instance has letters, digits and . _ - only", where=f"--instance {printable(instance)}")
    if arguments.home is not None:
        raise UsageError("--instance and --home exclude each other", remedy="name one of them")
    return HostNames(instance=instance)


def environment_outside(arguments: argparse.Namespace) -> dict[str, str]:
    """The environment without what EnvironmentFile= has put there from the env file.

    To be called at the start: a line that is removed later would otherwise stay in force until a restart.
    """
    given = _given_in(env_file_of(arguments))
    return {name: value for name, value in os.environ.items() if given.get(name) != value}


def user_name() -> str:
    """The user who runs this command; under sudo the one who called it."""
    return os.environ.get("SUDO_USER") or account_names.user_name()


def open_state(loaded: Settings) -> StateDb | None:
    """The state database, read-only; None when there is none yet."""
    from retrain_worker.adapters import state_access

    place = loaded.state_place
    return state_access.state_beside(place) if state_access.exists(place) else None


@contextlib.contextmanager
def state_to_write(loaded: Settings) -> Iterator[StateDb]:
    """The state database: as its owner, or beside the process that owns it, which sees the change at its next pass."""
    from retrain_worker.adapters import state_access
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.adapters.state_lock import StateLock

    with contextlib.ExitStack() as resources:
        is_owner = not loaded.state_url
        try:
            resources.enter_context(StateLock(loaded.state_path))
        except AlreadyRunningError:
            is_owner = False
        place = loaded.state_place
        yield resources.enter_context(
            StateDb(place.file) if is_owner else state_access.state_beside(place, read_only=False)
        )


def redis_url(loaded: Settings) -> str:
    """REDIS_URL, or the embedded Redis of the home where it is empty."""
    url = str(loaded.redis_url)
    if not url:
        from retrain_worker.adapters.embedded_redis import EmbeddedRedis

        assert loaded.home is not None, "without a home, a Redis is always named"
        url = EmbeddedRedis(loaded.home).url
    return url


def no_run_yet(settings: Settings) -> UsageError:
    """For a verb that shows a run, where there is none."""
    home = f" --home {settings.home}" if settings.home else ""
    where = str(settings.home or settings.state_path)
    return UsageError("no run yet", where=where, remedy=f"start one: {command()} once{home}")


@contextlib.contextmanager
def running_redis(loaded: Settings) -> Iterator[str]:
    """REDIS_URL, or the URL of the embedded Redis of the home, which is started on its data where it does not run."""
    if loaded.redis_url:
        yield str(loaded.redis_url)
        return
    from retrain_worker.adapters.embedded_redis import EmbeddedRedis

    assert loaded.home is not None, "without a home, a Redis is always named"
    if not (loaded.home / "redis").exists():
        raise no_run_yet(loaded)
    with EmbeddedRedis(loaded.home) as server:
        yield server.url


def last_seconds(loaded: Settings) -> Mapping[str, float]:
    """The seconds of the newest finished run by stage; empty without one."""
    with contextlib.suppress(RetrainError), open_state(loaded) or contextlib.nullcontext() as store:
        if store is not None:
            return next((run.seconds for run in store.history(limit=_RUNS_FOR_SECONDS) if "train" in run.seconds), {})
    return {}


def prepare_home(loaded: Settings) -> None:
    """Make the folders of a new home, the note of its database, and an env file for the engine."""
    if loaded.home is None:
        return
    for folder in (loaded.state_path, loaded.model_path, loaded.checkpoint_path, loaded.engine_models_dir):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if loaded.home in loaded.engine_env_file.parents and not loaded.engine_env_file.exists():
        loaded.engine_env_file.parent.mkdir(parents=True, exist_ok=True)
        loaded.engine_env_file.write_text(_FRESH_ENGINE_ENV)
    database = str(loaded.database_path or loaded.database_url)
    if not has_password(database):  # a password stays where the operator has put it
        _database_file(loaded.home).write_bytes(os.fsencode(f"{database}\n"))


def _database_file(home: Path) -> Path:
    """The database that the home was used with last: a path or a URL."""
    return home / "state/database"


def env_file_of(arguments: argparse.Namespace) -> Path | None:
    """--env-file, or without --home the default one, unless it does not exist; that of an instance must exist."""
    path: Path | None = arguments.env_file
    host = host_names_of(arguments)
    if path is not None or arguments.home is not None:
        return path
    if host.instance:
        return host.env_file
    try:
        host.env_file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may exist: reading it reports why it cannot be read
    return host.env_file


def _given_in(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return env_file.parse(path.read_bytes())
    except OSError as error:
        raise SettingsError((f"cannot read {path}: {error.strerror}",)) from None
    except RetrainError as error:
        raise SettingsError((f"{path}: {error.what}",)) from None
