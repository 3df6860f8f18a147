"""The structure of the packages: layers, documented imports, no cycles, no torch in the daemon."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

from retrain_worker.domain.lifecycle import ALWAYS_ALLOWED, MOVES, Outcome, Stage
from retrain_worker.stages.advance import STAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "retrain_worker"


def documented_imports() -> dict[str, set[str]]:
    """Package -> packages that it imports, as the table in docs/explanation/architecture.md says."""
    table = (ROOT / "docs/explanation/architecture.md").read_text().partition("## Packages")[2]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", table, re.MULTILINE)
    return {package: {name.strip() for name in imports.split(",") if name.strip()} for package, imports in rows}


def actual_imports() -> dict[str, set[str]]:
    graph = grimp.build_graph("retrain_worker", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules - {"retrain_worker", "retrain_worker.__main__"}:
        package = module.split(".")[1]
        imported = {name.split(".")[1] for name in graph.find_modules_directly_imported_by(module) if "." in name}
        found.setdefault(package, set()).update(imported - {package})
    return found


def test_the_table_of_packages_states_what_each_package_imports() -> None:
    assert documented_imports() == actual_imports()


def test_the_layers_name_every_package_of_the_table() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.split("|")}

    assert named - {"__main__"} == set(documented_imports())


def test_benchmarks_have_no_import_cycle() -> None:
    """They are scripts that import each other by bare names, which import-linter does not see."""
    trees = {path.stem: ast.parse(path.read_text()) for path in (ROOT / "benchmarks").glob("*.py")}
    imports = {
        name: {
            imported
            for node in ast.walk(tree)
            for imported in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if imported in trees
        }
        for name, tree in trees.items()
    }

    assert imports["gates"] >= {"gate_markets", "gate_years"}
    TopologicalSorter(imports).prepare()


def test_every_stage_has_a_module_of_its_name() -> None:
    assert all((PACKAGE / "stages" / f"{stage.lower()}.py").exists() for stage in Stage)
    assert set(STAGES) == set(Stage)


def test_every_outcome_can_be_reached() -> None:
    reachable = set().union(*MOVES.values()) | ALWAYS_ALLOWED

    assert set(Outcome) <= reachable


def test_the_daemon_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "polars", "sqlalchemy"}
    code = f"import sys, retrain_worker.daemon.service; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_weights_only_is_never_turned_off() -> None:
    loads = [path for path in PACKAGE.rglob("*.py") if "weights_only=False" in path.read_text()]

    assert loads == []


def test_every_module_has_a_docstring() -> None:
    silent = [path for path in PACKAGE.rglob("*.py") if not path.read_text().lstrip("r").startswith('"""')]

    assert silent == []
