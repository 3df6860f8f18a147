"""A message names a command with the instance that it is about: without it, an operator rolls back another's model."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retrain_worker.cli.verbs import VERBS
from retrain_worker.domain.host_names import INSTANCE_VARIABLE, command
from retrain_worker.domain.pause import Pause
from tests.reference_pages import ROOT

#: texts for the one who has not chosen an instance yet: help, the demo, `discover`, `init-db`, headers of files
GENERAL = {"cli", "demo", "discovery"}
_NAMED = re.compile(rf"(?<!/)\bretrain-worker ({'|'.join(VERBS)})\b")


def literals(path: Path) -> Iterator[ast.Constant]:
    """The texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text())
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
            yield node


def test_no_message_of_the_daemon_names_a_command_by_itself() -> None:
    package = ROOT / "retrain_worker"
    found = [
        f"{path.relative_to(package)}:{node.lineno}: {_NAMED.search(str(node.value))}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in GENERAL
        for node in literals(path)
        if _NAMED.search(str(node.value)) and "# Written by" not in str(node.value)
    ]
    assert not found, "use command() of domain/host_names.py"


def test_the_command_line_tells_its_messages_the_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command() == "retrain-worker"
    said = subprocess.run(
        [sys.executable, "-m", "retrain_worker", "-i", "btc", "gates", "--env-file", tmp_path / "none"],
        env={"STATE_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    assert "retrain-worker -i btc once" in said, said
    monkeypatch.setenv(INSTANCE_VARIABLE, "btc")
    pause = Pause(by="root", reason="audit", since=datetime(2026, 1, 10, tzinfo=UTC))
    assert "`retrain-worker -i btc resume`" in pause.message
