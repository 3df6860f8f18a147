"""Whether the service runs this installation, as a stand-in for systemctl shows its unit."""

import sys
from pathlib import Path

import pytest

from retrain_worker.adapters import service_unit

OURS = f"{{ path=/usr/bin/env ; argv[]=/usr/bin/env --ignore-signal=HUP {sys.prefix}/bin/retrain-worker run ; flags= }}"
STACK = "{ path=/opt/v/bin/python ; argv[]=/opt/v/bin/python main.py ; flags= }"


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with what the stand-in prints."""
    shown = tmp_path / "shown"
    command = tmp_path / "bin/systemctl"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\ncat {shown}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    return shown


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ("LoadState=not-found\n", None),
        ("LoadState=masked\nFragmentPath=/dev/null\n", "is masked"),
        (f"LoadState=loaded\nFragmentPath=/etc/systemd/system/x\nExecStart={STACK}\n", "/etc/systemd/system/x takes"),
    ],
)
def test_a_unit_that_does_not_run_this_installation_is_named(show: Path, properties: str, expected: str | None) -> None:
    show.write_text(properties)
    found = service_unit.problem("x.service")

    assert (found is None) == (expected is None)
    assert found is None or expected is None or expected in found[0]


def test_a_drop_in_that_changes_the_command_is_named(show: Path, tmp_path: Path) -> None:
    drop_in = tmp_path / "own.conf"
    drop_in.write_text("[Service]\nExecStart=\nExecStart=/opt/v/bin/python main.py\n")
    show.write_text(f"LoadState=loaded\nFragmentPath=/usr/lib/x\nDropInPaths={drop_in}\nExecStart={STACK}\n")
    found = service_unit.problem("x.service")

    assert found is not None
    assert str(drop_in) in found[0]
    assert "which does not exist" in found[0]


def test_this_installation_is_no_problem_if_its_environment_belongs_to_root(show: Path) -> None:
    show.write_text(f"LoadState=loaded\nFragmentPath=/usr/lib/x\nExecStart={OURS}\n")
    owner = Path(sys.prefix).stat().st_uid
    found = service_unit.problem("x.service")

    assert found is None if owner == 0 else found is not None and "belongs to" in found[0]


def test_environment_and_env_files_are_read_as_systemctl_shows_them(show: Path) -> None:
    show.write_text(
        'Environment=A=1 "B=two words"\nEnvironmentFiles=/etc/a.env (ignore_errors=no)\n'
        "EnvironmentFiles=/etc/with space.env (ignore_errors=yes)\n"
    )

    assert service_unit.environment("x") == {"A": "1", "B": "two words"}
    assert service_unit.env_files("x") == [Path("/etc/a.env"), Path("/etc/with space.env")]


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ("ActiveState=failed\nSubState=failed\nStatusText=no table\nResult=exit-code\n", "has failed (no table)"),
        ("ActiveState=activating\nSubState=auto-restart\nStatusText=\nResult=exit-code\n", "has failed (exit-code)"),
        ("ActiveState=inactive\nSubState=dead\nStatusText=\nResult=success\n", ""),
    ],
)
def test_a_unit_that_failed_is_named_with_its_cause(show: Path, properties: str, message: str) -> None:
    show.write_text(properties)

    failure = service_unit.failure("x.service")

    assert message in failure
    assert bool(failure) is bool(message)
