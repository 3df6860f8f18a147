"""Settings are read once, typed, and every problem is said in one message."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import make_url

from retrain_worker import settings
from retrain_worker.errors import SettingsError


def test_every_problem_is_named_at_once():
    wrong = {
        "RETRAIN_INTERVAL_H": "often",
        "MODEL_PATH": "relative",
        "LABEL": "up",
        "SEQ_LEN": "1",
        "REDIS_PORT": "0",
        "ALLOW_LIVE_SWAP": "maybe",
        "DATABASE_URL": "mysql://x",
        "GATE_MAX_ACTION_SHARE": "nan",
    }

    with pytest.raises(SettingsError) as caught:
        settings.load(wrong)

    named = {problem.split("=")[0].split(":")[0] for problem in caught.value.problems}
    assert named == set(wrong)


def test_no_secret_is_shown():
    loaded = settings.load({"REDIS_URL": "redis://:hunter2@host/0", "DATABASE_URL": "postgresql://u:hunter2@host/db"})

    assert "hunter2" not in repr(loaded)


def test_a_wrong_url_is_not_quoted():
    with pytest.raises(SettingsError) as caught:
        settings.load({"REDIS_URL": "http://u:hunter2@host", "DATABASE_URL": "mysql://u:hunter2@host/db"})

    assert "hunter2" not in str(caught.value)


def test_a_home_holds_everything_that_is_written():
    loaded = settings.load({"MODEL_PATH": "/elsewhere", "STATE_DIRECTORY": "/var/lib/x"}, home=Path("/h"))

    written = (
        loaded.state_path,
        loaded.model_path,
        loaded.checkpoint_path,
        loaded.engine_models_dir,
        loaded.engine_env_file,
        loaded.engine_trigger_file,
    )
    assert all(Path("/h") in path.parents for path in written)
    assert loaded.redis_url == ""
    assert loaded.bookkeeping is False


def test_engine_env_file_may_lie_outside_the_home():
    assert settings.load({"ENGINE_ENV_FILE": "/etc/e.env"}, home=Path("/h")).engine_env_file == Path("/etc/e.env")


def test_a_named_redis_is_used_with_a_home():
    assert settings.load({"REDIS_PORT": "7000"}, home=Path("/h")).redis_url == "redis://localhost:7000/0"


def test_the_database_on_the_command_line_wins():
    loaded = settings.load({"DATABASE_URL": "postgresql://h/d", "DB_PATH": "/a.db"}, db="/b.db")

    assert (loaded.database_url, loaded.database_path) == ("sqlite:////b.db", Path("/b.db"))


def test_a_misspelled_name_is_noticed_and_a_foreign_one_is_not():
    given = {"RETRAIN_INTERVL_H": "4", "QUANTUM_MODE": "shadow"}

    assert settings.likely_misspellings(given, settings.load(given)) == (
        "RETRAIN_INTERVL_H is not a setting; was RETRAIN_INTERVAL_H meant?",
    )


def test_names_that_no_setting_has_are_found():
    given = {"TOTALLY_UNKNOWN": "1", "SEQ_LEN": "64", "REDIS_PASS": "x"}

    assert settings.unknown_names(given, settings.load(given)) == ("TOTALLY_UNKNOWN", "REDIS_PASS")


@pytest.mark.parametrize(
    ("together", "named"),
    [
        ({"GATE_MIN_AGREEMENT": "0.9", "GATE_MAX_AGREEMENT": "0.1", "AGREEMENT": "required"}, "GATE_MAX_AGREEMENT"),
        ({"GATE_MIN_ACTION_SHARE": "0.9"}, "GATE_MIN_ACTION_SHARE"),
        ({"SHADOW_HOURS": "400", "SHADOW_MAX_HOURS": "10"}, "SHADOW_MAX_HOURS"),
        ({"HOLDOUT_SHARE": "0.5", "VALIDATION_SHARE": "0.4"}, "VALIDATION_SHARE"),
        ({"WORKER_MEMORY_MB": "1"}, "WORKER_MEMORY_MB"),
    ],
)
def test_values_that_would_let_nothing_pass_together_are_refused(together, named):
    with pytest.raises(SettingsError, match=named) as refused:
        settings.load(together)
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("name", ["q?x.db", "p%41x.db", "a#b.db", "with space.db", "ünï.db"])
def test_an_odd_path_stays_the_path_it_is(name):
    loaded = settings.load({}, db=f"/data/{name}")

    assert make_url(loaded.database_url).database == f"/data/{name}"
    assert loaded.database_path == Path(f"/data/{name}")


def test_an_odd_redis_password_does_not_change_the_host():
    parts = urlsplit(settings.load({"REDIS_HOST": "bus", "REDIS_PASSWORD": "p@ss/w#rd"}).redis_url)

    assert (parts.hostname, unquote(parts.password)) == ("bus", "p@ss/w#rd")


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(SettingsError):
        settings.load({"EMBARGO_H": value})
