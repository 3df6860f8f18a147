"""Log events are an interface: docs/operations.md documents every event that the daemon or a command logs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGGED = re.compile(
    r"(?:\b(?:log|get_logger\(\))\.(?:debug|info|warning|error|exception)|\bwrite)"
    r'\(\s*"(\w+)"(?: if [^"]* else "(\w+)")?'
)


def logged_names() -> set[str]:
    packages = ("daemon", "cli")
    texts = [path.read_text() for package in packages for path in (ROOT / "retrain_worker" / package).rglob("*.py")]
    return {name for text in texts for found in LOGGED.findall(text) for name in found if name}


def test_every_event_that_is_logged_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs/operations.md").read_text()))
    names = logged_names()

    assert {"run_finished", "serving_fault_over", "job_failed"} <= names
    assert names <= documented, names - documented
