"""Settings are typed, every problem is reported at once, and former names are accepted."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import make_url

from retrain_worker import settings
from retrain_worker.domain.confirmation import Confirm
from retrain_worker.errors import SettingsError
from retrain_worker.settings import names
from tests.known import known


def test_every_problem_is_named_at_once() -> None:
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

    assert {problem.split(":")[0] for problem in caught.value.problems} == set(wrong)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RETRAIN_INTERVAL_H", "banana", 'RETRAIN_INTERVAL_H: "banana" is not a number'),
        ("EMBARGO_H", "inf", 'EMBARGO_H: "inf" is not a number'),
        ("EMBARGO_H", "nan", 'EMBARGO_H: "nan" is not a number'),
        ("EMBARGO_H", "-1", 'EMBARGO_H: "-1" is not at least 0'),
        ("SEED", "1.5", 'SEED: "1.5" is not a whole number'),
        ("SEED", "-1", 'SEED: "-1" is not at least 0'),
        ("SEED", "9" * 400, f'SEED: "{"9" * 400}" is not a whole number'),
        ("SEQ_LEN", "1", 'SEQ_LEN: "1" is not between 2 and 4096'),
        ("DROPOUT", "2", 'DROPOUT: "2" is not between 0 and 0.9'),
        ("WARM_START", "maybe", 'WARM_START: "maybe" is not true or false'),
        ("LABEL", "up", 'LABEL: "up" is not one of outcome, direction'),
        ("MODEL_PATH", "here", 'MODEL_PATH: "here" is not an absolute path'),
        ("ENGINE_UNIT", "a\nb", "ENGINE_UNIT: the value is not one line of text"),
        ("ENGINE_CONFIRM", "unit:3", 'ENGINE_CONFIRM: "unit:3" is not one of auto, none, event, unit, answers'),
        ("ENGINE_CONFIRM", "event:0", 'ENGINE_CONFIRM: "0" is not at least 1, or over 0 % and at most 100 %'),
        (
            "ENGINE_CONFIRM",
            "event:most",
            'ENGINE_CONFIRM: "most" is neither a number of followers nor a share, as in 3 or 50%',
        ),
        (
            "MODELS_URL",
            "s3://key:hidden@bucket",
            "MODELS_URL: not a URL as s3://bucket/folder or file:///mnt/models, without user, password, ? and #",
        ),
        (
            "MODELS_URL",
            "https://models.internal/btc",
            "MODELS_URL: http(s) is for reading: name what the server publishes, "
            "as file:///srv/models or s3://bucket/folder",
        ),
        (
            "MODELS_CREDENTIALS",
            "AWS_ACCESS_KEY_ID=hidden PATH=/tmp",
            "MODELS_CREDENTIALS: not NAME=VALUE pairs of names as AWS_ACCESS_KEY_ID "
            "(AWS_, GOOGLE_, GCSFS_, AZURE_, FSSPEC_)",
        ),
        ("WORKER_MEMORY_MB", "1", 'WORKER_MEMORY_MB: "1" is not 0 (no limit) or at least 512'),
    ],
)
def test_a_message_names_setting_value_and_expectation(name: str, value: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({name: value})

    assert str(caught.value) == message


@pytest.mark.parametrize("former", names.RENAMED)
def test_a_former_name_is_accepted_with_a_warning_that_names_the_current_one(former: Any) -> None:
    name = names.RENAMED[former]
    default = settings.load({}).names[name]
    by_former_name, by_name = settings.load({former: default}), settings.load({name: default})

    assert by_former_name.deprecations == (f"{former} is deprecated; rename it to {name}",)
    assert by_name.deprecations == ()
    assert replace(by_former_name, deprecations=()) == by_name


def test_the_value_of_a_former_name_is_used() -> None:
    loaded = settings.load({"CHILD_NICE": "5", "TRIAL_CHECK_MIN": "30"})

    assert (loaded.worker_nice, loaded.trial_interval_minutes) == (5, 30.0)


def test_both_names_of_a_setting_must_have_the_same_value() -> None:
    loaded = settings.load({"CHILD_NICE": "5", "WORKER_NICE": "5"})
    with pytest.raises(SettingsError) as caught:
        settings.load({"CHILD_NICE": "5", "WORKER_NICE": "6"})

    assert loaded.worker_nice == 5
    assert len(loaded.deprecations) == 1
    assert caught.value.problems == (
        "WORKER_NICE and CHILD_NICE, its deprecated name, have different values; remove CHILD_NICE",
    )


@pytest.mark.parametrize(("name", "former"), names.RENAMED_VALUES)
def test_a_former_value_is_accepted_with_a_warning_that_names_the_current_one(name: Any, former: Any) -> None:
    value = names.RENAMED_VALUES[name, former]
    loaded = settings.load({name: former.upper()})

    assert loaded.deprecations == (f"{name}={former} is deprecated; write {name}={value}",)
    assert replace(loaded, deprecations=()) == settings.load({name: value})


def test_a_removed_setting_is_reported_and_changes_nothing() -> None:
    loaded = settings.load({"PRETRAIN_EPOCHS": "6"})

    (message,) = loaded.deprecations
    assert message.startswith("PRETRAIN_EPOCHS was removed and has no effect (")
    assert replace(loaded, deprecations=()) == settings.load({})
    assert names.unknown_names(["PRETRAIN_EPOCHS"], ()) == ()


def test_current_and_former_names_are_disjoint() -> None:
    assert set(names.RENAMED.values()) <= set(settings.load({}).names)
    assert not {*names.RENAMED, *names.REMOVED} & set(settings.load({}).names)


def test_the_repr_of_settings_masks_secrets() -> None:
    loaded = settings.load({"REDIS_URL": "redis://:hunter2@host/0", "DATABASE_URL": "postgresql://u:hunter2@host/db"})

    assert "hunter2" not in repr(loaded)


def test_an_invalid_url_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({"REDIS_URL": "http://u:hunter2@host", "DATABASE_URL": "mysql://u:hunter2@host/db"})

    assert "hunter2" not in str(caught.value)


def test_a_home_holds_everything_that_is_written() -> None:
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


def test_engine_env_file_may_lie_outside_the_home() -> None:
    assert settings.load({"ENGINE_ENV_FILE": "/etc/e.env"}, home=Path("/h")).engine_env_file == Path("/etc/e.env")


def test_a_named_redis_is_used_with_a_home() -> None:
    assert settings.load({"REDIS_PORT": "7000"}, home=Path("/h")).redis_url == "redis://localhost:7000/0"


def test_the_database_of_the_command_line_takes_precedence() -> None:
    loaded = settings.load({"DATABASE_URL": "postgresql://h/d", "DB_PATH": "/a.db"}, db="/b.db")

    assert (loaded.database_url, loaded.database_path) == ("sqlite:////b.db", Path("/b.db"))


def test_a_misspelled_name_is_reported_and_an_unrelated_one_is_not() -> None:
    given = {"RETRAIN_INTERVL_H": "4", "QUANTUM_MODE": "shadow"}

    assert settings.likely_misspellings(given, settings.load(given).names) == (
        "RETRAIN_INTERVL_H is not a setting; was RETRAIN_INTERVAL_H meant?",
    )


def test_unknown_names_are_found() -> None:
    given = {"TOTALLY_UNKNOWN": "1", "SEQ_LEN": "64", "REDIS_PASS": "x", "CHILD_NICE": "5"}

    assert settings.unknown_names(given, settings.load(given).names) == ("TOTALLY_UNKNOWN", "REDIS_PASS")


@pytest.mark.parametrize(
    ("together", "named"),
    [
        ({"GATE_MIN_AGREEMENT": "0.9", "GATE_MAX_AGREEMENT": "0.1", "AGREEMENT": "required"}, "GATE_MAX_AGREEMENT"),
        ({"GATE_MIN_ACTION_SHARE": "0.9"}, "GATE_MIN_ACTION_SHARE"),
        ({"SHADOW_HOURS": "400", "SHADOW_MAX_HOURS": "10"}, "SHADOW_MAX_HOURS"),
        ({"PROBATION_RESOLUTION": "0.02", "PROBATION_MARGIN": "0.02"}, "PROBATION_RESOLUTION"),
        ({"HOLDOUT_SHARE": "0.5", "VALIDATION_SHARE": "0.4"}, "VALIDATION_SHARE"),
    ],
)
def test_values_that_exclude_each_other_are_refused(together: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refused:
        settings.load(together)
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("name", ["q?x.db", "p%41x.db", "a#b.db", "with space.db", "ünï.db"])
def test_special_characters_in_a_path_are_kept(name: str) -> None:
    loaded = settings.load({}, db=f"/data/{name}")

    assert make_url(loaded.database_url).database == f"/data/{name}"
    assert loaded.database_path == Path(f"/data/{name}")


def test_special_characters_in_a_redis_password_do_not_change_the_host() -> None:
    parts = urlsplit(settings.load({"REDIS_HOST": "bus", "REDIS_PASSWORD": "p@ss/w#rd"}).redis_url)

    assert (parts.hostname, unquote(known(parts.password))) == ("bus", "p@ss/w#rd")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REDIS_PASSWORD", "pass\udcff", "REDIS_PASSWORD: the value is not valid UTF-8"),
        ("ENGINE_UNIT", "\udcff", "ENGINE_UNIT: the value is not valid UTF-8"),
        ("MODEL_PATH", "/m\udcff", 'MODEL_PATH: "/m\\xff" is not valid UTF-8'),
        ("MODEL_PATH", "~\udfbc/m", 'MODEL_PATH: "~\udfbc/m" is not an absolute path'),
    ],
)
def test_a_value_that_is_not_utf_8_is_a_problem_and_no_secret_is_shown(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as rejected:
        settings.load({name: value}, home=None, db="/d.db")

    assert rejected.value.problems == (message,)


@pytest.mark.parametrize(
    ("given", "of_eight"), [("event", 1), ("event:3", 3), ("event:50%", 4), ("EVENT:33.4 %", 3), ("event:100%", 8)]
)
def test_a_confirmation_may_need_several_followers(given: str, of_eight: int) -> None:
    loaded = settings.load({"ENGINE_CONFIRM": given})
    assert (loaded.engine_confirm, loaded.engine_confirm_quorum.required(8)) == (Confirm.EVENT, of_eight)
    assert loaded.engine_confirm_quorum.required(0) >= 1


def test_credentials_of_the_model_store_are_masked() -> None:
    loaded = settings.load({"MODELS_URL": "s3://b/btc", "MODELS_CREDENTIALS": "AWS_SECRET_ACCESS_KEY=hidden"})
    assert "hidden" not in repr(loaded)
    assert loaded.models_url == "s3://b/btc"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("local", ()),
        ("torchrun --nproc-per-node 2", ("torchrun", "--nproc-per-node", "2")),
        ("ssh -o 'User me' host", ("ssh", "-o", "User me", "host")),
    ],
)
def test_the_launcher_is_read_as_the_words_of_a_command_line(text: str, words: tuple[str, ...]) -> None:
    assert settings.load({"TRAIN_LAUNCHER": text}).train_launcher == words


def test_a_launcher_with_an_open_quote_is_a_problem() -> None:
    with pytest.raises(SettingsError, match="TRAIN_LAUNCHER"):
        settings.load({"TRAIN_LAUNCHER": "ssh 'host"})
