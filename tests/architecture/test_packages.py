"""The house is as DESIGN draws it: one module per stage, no torch in the daemon."""

import subprocess
import sys
from pathlib import Path

from retrain_worker.domain.lifecycle import ALWAYS_ALLOWED, MOVES, Outcome, Stage
from retrain_worker.stages.advance import STAGES

PACKAGE = Path(__file__).parents[2] / "retrain_worker"


def test_every_stage_has_a_module_of_its_name():
    assert all((PACKAGE / "stages" / f"{stage.lower()}.py").exists() for stage in Stage)
    assert set(STAGES) == set(Stage)


def test_every_outcome_can_be_reached():
    reachable = set().union(*MOVES.values()) | ALWAYS_ALLOWED

    assert set(Outcome) <= reachable


def test_the_daemon_imports_neither_torch_nor_numpy():
    code = "import sys, retrain_worker.daemon.service; print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_weights_only_is_never_turned_off():
    loads = [path for path in PACKAGE.rglob("*.py") if "weights_only=False" in path.read_text()]

    assert loads == []


def test_each_module_says_its_job_in_its_first_line():
    silent = [path for path in PACKAGE.rglob("*.py") if not path.read_text().lstrip("r").startswith('"""')]

    assert silent == []
