"""Installed size of each dependency, and resident memory of the daemon's imports: `python benchmarks/weight.py`."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

DAEMON = """
import retrain_worker.daemon.service
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def megabytes(name: str) -> float | None:
    """Installed size of a distribution, or None when it is not installed."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return None
    paths = (Path(file.locate()) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["serving"], *extras["daemon"], *extras["postgres"]]
    names = [re.findall(r"^[A-Za-z0-9_.-]+", line)[0] for line in required if not line.startswith("retrain-worker")]
    print("| package | MB installed |\n|---|---|")
    for name in [*names, "psycopg-binary"]:
        size = megabytes(name)
        print(f"| {name} | {'not installed' if size is None else f'{size:.1f}'} |")
    resident = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True, check=True).stdout
    print(f"\nthe daemon with everything imported: {int(resident) / 1024:.0f} MB resident")


if __name__ == "__main__":
    main()
