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
from retrain_worker.domain.printable import printable
from retrain_worker.errors import AlreadyRunningError, RetrainError, SettingsError, UsageError
from retrain_worker.settings import Settings

if TYPE_CHECKING:
    from retrain_worker.adapters.state_db import StateDb

_FRESH_ENGINE_ENV = """\
# Takes the place of /etc/quantum/ai-engine.env: made by `retrain-worker --home`, because no ENGINE_ENV_FILE is set.
PATCHTST_SHADOW_ONLY=true
"""


def add_places(parser: argparse.ArgumentParser) -> None:
    """--home and --env-file."""
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep everything this program writes under DIR")
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help=f"read settings from FILE (default without --home: {settings.ENV_FILE}, if it is there)",
    )


def add_database(parser: argparse.ArgumentParser) -> None:
    """--db."""
    parser.add_argument("--db", metavar="FILE|URL", help="the trading database (default: DB_PATH or DATABASE_URL)")


def read_settings(arguments: argparse.Namespace, outside: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment, the env file (which wins, as in a unit) and credentials. Raises SettingsError.

    `outside`: the environment, or what `environment_outside` leaves of it.
    """
    given = _given_in(env_file_of(arguments))
    home = home_of(arguments)
    environment = {**outside, **given, **settings.credentials_in(os.environ, home=home)}
    loaded = settings.load(environment, home=home, db=getattr(arguments, "db", None))
    misspelled = settings.likely_misspellings(given, loaded.names)
    if misspelled:
        raise SettingsError(misspelled)
    return loaded


def read_valid_settings(arguments: argparse.Namespace) -> Settings:
    """Settings of a verb that an operator needs when something is wrong: an invalid one has its default.

    Each problem is a warning on stderr.
    """
    home = home_of(arguments)
    given = _or_warning(lambda: _given_in(env_file_of(arguments)))
    credentials = _or_warning(lambda: settings.credentials_in(os.environ, home=home))
    loaded = settings.load({**os.environ, **given, **credentials}, home=home, on_problem=_warn)
    for problem in settings.likely_misspellings(given, loaded.names):
        _warn(problem)
    return loaded


def _or_warning(read: Callable[[], dict[str, str]]) -> dict[str, str]:
    try:
        return read()
    except SettingsError as error:
        for problem in error.problems:
            _warn(problem)
        return {}


def _warn(problem: str) -> None:
    print(f"retrain-worker: warning: {printable(problem)}; the default is used", file=sys.stderr)


def unknown_names(arguments: argparse.Namespace, loaded: Settings) -> tuple[str, ...]:
    """Names in the env file that are no settings."""
    return settings.unknown_names(_given_in(env_file_of(arguments)), loaded.names)


def home_of(arguments: argparse.Namespace) -> Path | None:
    """--home, absolute. Raises UsageError when it is not valid UTF-8."""
    home = Path(arguments.home).expanduser().absolute() if arguments.home else None
    if home and bytes(home).decode(errors="ignore") != str(home):
        raise UsageError("not valid UTF-8", where=printable(home), remedy="use another --home")
    return home


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
    from retrain_worker.adapters.state_db import StateDb

    path = loaded.state_path / "state.db"
    return StateDb(path, read_only=True) if path.exists() else None


@contextlib.contextmanager
def state_to_write(loaded: Settings) -> Iterator[StateDb]:
    """The state database: as its owner, or beside the process that owns it, which sees the change at its next pass."""
    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.adapters.state_lock import StateLock

    with contextlib.ExitStack() as resources:
        is_owner = True
        try:
            resources.enter_context(StateLock(loaded.state_path))
        except AlreadyRunningError:
            is_owner = False
        yield resources.enter_context(StateDb(loaded.state_path / "state.db", is_owner=is_owner))


def redis_url(loaded: Settings) -> str:
    """REDIS_URL, or the embedded Redis of the home where it is empty."""
    url = str(loaded.redis_url)
    if not url:
        from retrain_worker.adapters.embedded_redis import EmbeddedRedis

        assert loaded.home is not None, "without a home, a Redis is always named"
        url = EmbeddedRedis(loaded.home).url
    return url


def prepare_home(loaded: Settings) -> None:
    """Make the folders of a new home, and an env file for the engine where that is under the home."""
    if loaded.home is None:
        return
    for folder in (loaded.state_path, loaded.model_path, loaded.checkpoint_path, loaded.engine_models_dir):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if loaded.home in loaded.engine_env_file.parents and not loaded.engine_env_file.exists():
        loaded.engine_env_file.parent.mkdir(parents=True, exist_ok=True)
        loaded.engine_env_file.write_text(_FRESH_ENGINE_ENV)


def env_file_of(arguments: argparse.Namespace) -> Path | None:
    """--env-file, or without --home the default one, unless it does not exist."""
    path: Path | None = arguments.env_file
    if path is not None or arguments.home is not None:
        return path
    try:
        settings.ENV_FILE.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may exist: reading it reports why it cannot be read
    return settings.ENV_FILE


def _given_in(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return env_file.parse(path.read_bytes())
    except OSError as error:
        raise SettingsError((f"cannot read {path}: {error.strerror}",)) from None
    except RetrainError as error:
        raise SettingsError((f"{path}: {error.what}",)) from None
