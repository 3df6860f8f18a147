"""The command as a user meets it: help, suggestions, colours, width, JSON, exit codes."""

import json
import os
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.cli.completion import FILES
from retrain_worker.cli.exit_codes import MEANINGS, ExitCode
from retrain_worker.cli.verbs import VERBS
from retrain_worker.domain.lifecycle import Outcome, Run
from tests.upgrades import stored_home

ROOT = Path(__file__).parents[2]


def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    kept |= {"DB_PATH": "/nowhere/t.db", "STATE_PATH": "/nowhere/state"}  # not those of this host
    return subprocess.run(
        [sys.executable, "-m", "retrain_worker", *map(str, arguments)],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_help_lists_every_verb_and_every_exit_code() -> None:
    shown = call("--help").stdout

    assert [name for name in VERBS if not re.search(rf"^  {name} ", shown, re.MULTILINE)] == []
    assert [code for code in ExitCode if not re.search(rf"^ +{code}  ", shown, re.MULTILINE)] == []
    assert set(MEANINGS) == set(ExitCode)


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_has_an_example_that_can_be_parsed(name: str) -> None:
    import shlex

    from retrain_worker.cli import parse

    words = shlex.split(VERBS[name].example)
    assert words[0] == name
    assert callable(parse(words).execute)
    assert f"retrain-worker {VERBS[name].example}" in call(name, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "suggestion"), [(["statsu"], "did you mean status?"), (["status", "--jsn"], "did you mean --json?")]
)
def test_a_misspelt_word_is_wrong_usage_with_a_suggestion(arguments: list[str], suggestion: str) -> None:
    done = call(*arguments)

    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert suggestion in done.stderr


def test_without_a_verb_the_state_and_the_next_step_are_shown() -> None:
    done = call()

    assert done.returncode == 0
    assert re.search("daemon +not running", done.stdout)
    assert "retrain-worker demo" in done.stdout


@pytest.mark.parametrize("width", [60, 120])
def test_help_is_not_wider_than_the_terminal(width: int) -> None:
    for arguments in (["--help"], ["rollback", "--help"]):
        lines = call(*arguments, COLUMNS=str(width)).stdout.splitlines()
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
    ],
)
def test_colours_follow_the_environment(tmp_path: Path, environment: dict[str, str], has_colour: bool) -> None:
    shown = call("status", "--home", tmp_path, **environment).stdout

    assert ("\x1b[" in shown) is has_colour


def test_no_color_leaves_no_colour(tmp_path: Path) -> None:
    shown = call("status", "--home", tmp_path, FORCE_COLOR="1", NO_COLOR="1").stdout

    assert re.findall(r"\x1b\[[0-9;]*3[0-7]", shown) == []


@pytest.mark.parametrize("verb", ["history", "deployments"])
def test_an_empty_list_is_an_empty_array(tmp_path: Path, verb: str) -> None:
    done = call(verb, "--home", tmp_path, "--json")

    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("gates", "--json"), ExitCode.USAGE),
        (("reload", "--json"), ExitCode.USAGE),
        (("once", "--json", "--no-such"), ExitCode.USAGE),
        (("once", "--json", "--env-file", "/nowhere.env"), ExitCode.SETTINGS),
    ],
)
def test_an_error_is_json_as_well(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    done = call(*arguments, "--home", tmp_path / "home")
    error: dict[str, Any] = json.loads(done.stdout)["error"]

    assert (done.returncode, error["exit_code"]) == (code, code)
    assert all(problem in done.stderr for problem in error["problems"])


def test_status_tells_by_its_exit_code_whether_a_daemon_runs(tmp_path: Path) -> None:
    assert call("status", "--home", tmp_path).returncode == ExitCode.NOT_RUNNING
    # the engine's env file does not exist
    assert call("status", "--home", tmp_path, "--exit-code").returncode == ExitCode.FAILED


def test_units_and_misspelt_names_are_in_the_first_message(tmp_path: Path) -> None:
    env = tmp_path / "worker.env"
    env.write_text("RETRAIN_INTERVAL_H=24x\nHOLDOUT_SHARE=95%\nWORKER_MEMORY_MB=2X\nMIN_SAMPELS=100\n")
    done = call("once", "--env-file", env, "--home", tmp_path / "home")

    assert done.returncode == ExitCode.SETTINGS
    named = ("RETRAIN_INTERVAL_H", "HOLDOUT_SHARE", "WORKER_MEMORY_MB", "was MIN_SAMPLES meant?")
    assert [name for name in named if name not in done.stderr] == []


def test_config_show_names_value_default_and_source_and_no_secret(tmp_path: Path) -> None:
    env = tmp_path / "worker.env"
    env.write_text("RETRAIN_INTERVAL_H=36h\nREDIS_PASSWORD=hunter2\nNOTIFY_URLS=slack://hunter2/b/c\n")
    done = call("config", "show", "--changed", "--json", "--env-file", env, MAX_EPOCHS="7")
    shown = {one["name"]: one for one in json.loads(done.stdout)}

    assert "hunter2" not in done.stdout
    assert (shown["RETRAIN_INTERVAL_H"]["value"], shown["RETRAIN_INTERVAL_H"]["source"]) == ("36h", str(env))
    assert (shown["MAX_EPOCHS"]["value"], shown["MAX_EPOCHS"]["source"]) == ("7", "environment")
    assert "SEED" not in shown


def test_a_home_knows_its_database(tmp_path: Path) -> None:
    from argparse import Namespace

    from retrain_worker.cli import options

    def loaded(db: str | None) -> Any:
        return options.read_settings(Namespace(home=tmp_path, env_file=None, db=db), {})

    options.prepare_home(loaded("/data/mine.db"))
    assert loaded(None).database_path == Path("/data/mine.db")
    assert loaded("/data/other.db").database_path == Path("/data/other.db")

    with_password = {"DATABASE_URL": "postgresql://u:hunter2@host/db"}
    options.prepare_home(options.read_settings(Namespace(home=tmp_path, env_file=None, db=None), with_password))
    assert loaded(None).database_path == Path("/data/mine.db")


def test_the_command_starts_fast(tmp_path: Path) -> None:
    """A generous limit: a slow machine under load passes, an import of SQLAlchemy or PyTorch does not."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    code = "import sys; from retrain_worker.__main__ import main; main(); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--home", str(tmp_path)], capture_output=True, text=True, check=True
    )
    heavy = {"sqlalchemy", "redis", "torch", "numpy", "structlog", "polars"}
    assert [name for name in heavy if f"'{name}'" in done.stderr] == []


def test_completions_and_manual_page_name_every_verb_where_the_installation_looks_for_them(tmp_path: Path) -> None:
    written = call("completion", "all", "--to", tmp_path).stdout.splitlines()
    makefile = (ROOT / "Makefile").read_text()

    assert [str(tmp_path / place) for place in FILES.values()] == written
    for path in map(Path, written):
        text = path.read_text().replace("\\-", "-")
        assert [name for name in VERBS if name not in text] == []
        assert str(path.relative_to(tmp_path)) in makefile
        assert f"/usr/share/{path.relative_to(tmp_path)}" in (ROOT / "systemd/build-deb").read_text()


SCHEMA = json.loads((ROOT / "docs/reference/command-line.schema.json").read_text())


def check_document(name: str, document: Any) -> None:
    jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **SCHEMA["$defs"][name]}).validate(document)


def test_the_published_schema_is_that_of_the_code() -> None:
    """Renew it: python -m retrain_worker.cli.schemas > docs/reference/command-line.schema.json."""
    from retrain_worker.cli import schemas

    assert (ROOT / "docs/reference/command-line.schema.json").read_text() == schemas.as_text()


def test_every_verb_with_json_has_a_document_in_the_schema() -> None:
    with_json = {name for name in VERBS if "--json" in call(name, "--help").stdout}
    documented = {name.split()[0] for name in SCHEMA["$defs"]} & set(VERBS)

    assert with_json | {"config", "events"} == documented


@pytest.fixture(scope="module")
def recorded_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of an earlier version with a history, brought to this version's tables."""
    home = tmp_path_factory.mktemp("recorded") / "home"
    stored_home.load("history", home)
    StateDb(home / "state/state.db").close()
    return home


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("status", "status"),
        ("history", "history"),
        ("deployments", "deployments"),
        ("gates", "gates"),
        ("report", "report"),
        ("config show", "config show"),
        ("pause", "pause --reason test"),
        ("resume", "resume"),
        ("failure", "config diff"),
        ("failure", "gates 20000101_000000"),
        ("failure", "reload"),
    ],
)
def test_the_output_of_a_verb_fits_its_schema(recorded_home: Path, document: str, words: str) -> None:
    done = call(*words.split(), "--home", recorded_home, "--json")

    check_document(document, json.loads(done.stdout))


def test_files_that_are_written_and_inspected_fit_their_schemas(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="`inspect` needs it")
    database = tmp_path / "trader.db"
    check_document("init-db", json.loads(call("init-db", database, "--rows", "1200", "--json").stdout))
    assert call("init-db", database).returncode == ExitCode.USAGE
    check_document("audit", json.loads(call("audit", "--db", database, "--home", tmp_path / "home", "--json").stdout))
    check_document("check", json.loads(call("check", "--db", database, "--home", tmp_path / "home", "--json").stdout))
    check_document("inspect", json.loads(call("inspect", database, "--json").stdout))
    check_document("keygen", json.loads(call("keygen", tmp_path / "key", "--json").stdout))
    check_document(
        "discover", json.loads(call("discover", tmp_path, "--out", tmp_path, "--home", tmp_path, "--json").stdout)
    )


def test_a_report_is_of_the_newest_run_that_was_not_skipped(tmp_path: Path) -> None:
    at = datetime(2026, 1, 10, tzinfo=UTC)
    runs = [
        Run(run_id=f"2026011{day}_000000", requested_by="a", request_reason="b", created_at=at, updated_at=at)
        for day in range(3)
    ]
    (tmp_path / "state").mkdir()
    with StateDb(tmp_path / "state/state.db") as store:
        for run, outcome in zip(runs, (Outcome.SKIPPED, Outcome.REFUSED, Outcome.SKIPPED), strict=True):
            store.record(run.ended(outcome, "a reason", at=at))

    assert json.loads(call("report", "--json", "--home", tmp_path).stdout)["run_id"] == runs[1].run_id
    assert json.loads(call("report", runs[2].run_id, "--json", "--home", tmp_path).stdout)["outcome"] == "SKIPPED"


def test_a_version_is_shown_whole_so_that_it_can_be_copied(recorded_home: Path) -> None:
    shown = call("deployments", "--home", recorded_home).stdout
    versions = {one["version"] for one in json.loads(call("deployments", "--home", recorded_home, "--json").stdout)}

    assert "patchtst_v20260117_000000" in versions
    assert versions - set(shown.split()) == set()
