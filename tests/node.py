"""npm packages for tests, installed once into build/node; a test that needs them is skipped where npm cannot."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[1] / "build" / "node"
_PACKAGES = {"redis": "6.3.1", "@asyncapi/specs": "6.11.1"}
needs_node = pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="no node and npm here")


def node_modules() -> Path:
    """The folder node_modules; the test is skipped when no registry can be reached."""
    modules = _FOLDER / "node_modules"
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all((modules / name / "package.json").is_file() for name in _PACKAGES):
            wanted = [f"{name}@{version}" for name, version in _PACKAGES.items()]
            command = ["npm", "install", "--prefix", str(_FOLDER), "--no-audit", "--no-fund", *wanted]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                pytest.skip(f"npm cannot install {', '.join(wanted)}: {done.stderr.strip()[-200:]}")
    return modules
