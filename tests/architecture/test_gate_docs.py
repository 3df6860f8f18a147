"""The tables of gates in docs/contracts/gates.md and README.md equal the declarations; `python -m` writes them."""

import re
from dataclasses import asdict
from pathlib import Path

from retrain_worker.domain.gates import GatePolicy, decision

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"(?<=<!-- gates -->\n).*?(?=<!-- /gates -->)", re.DOTALL)
POLICY = asdict(GatePolicy())


def setting(name: str) -> str:
    """A field of GatePolicy as a setting with its default."""
    named = {"agreement_required": "AGREEMENT=advisory", "hold_on_constant_window": "CONSTANT_WINDOW=hold"}
    return named.get(name) or f"GATE_{name.upper()}={POLICY[name]:g}"


def passes_when() -> list[tuple[str, str]]:
    """(name, when it passes) of each gate, for README.md."""
    return [
        (
            gate.name + ("" if gate.counts(GatePolicy()) else " (advisory)"),
            gate.requirement.format(**POLICY).replace("%", " %"),
        )
        for gate in decision.GATES
    ]


def readme_section() -> str:
    """The table in README.md."""
    rows = "".join(f"| {name} | {requirement} |\n" for name, requirement in passes_when())
    return f"| gate | passes when, on the holdout |\n|---|---|\n{rows}"


def gates_section() -> str:
    """The table in docs/contracts/gates.md."""
    rows = "".join(
        f"| {name} | {requirement} | {gate.failure} | {', '.join(map(setting, gate.thresholds))} |\n"
        for (name, requirement), gate in zip(passes_when(), decision.GATES, strict=True)
    )
    return f"| gate | passes when | a failure means | settings |\n|---|---|---|---|\n{rows}"


FILES = {ROOT / "README.md": readme_section, ROOT / "docs/contracts/gates.md": gates_section}


def test_the_documents_show_the_gates_as_they_are_declared() -> None:
    for path, section in FILES.items():
        assert SECTION.findall(path.read_text()) == [section()], f"{path}: python -m {__name__} writes it"


def test_the_settings_of_the_gates_are_those_of_the_example_file() -> None:
    example = (ROOT / "etc/quantum/retraining-worker.env").read_text()

    for gate in decision.GATES:
        for name in gate.thresholds:
            assert f"\n#{setting(name)}\n" in example


def test_the_method_of_each_gate_is_documented() -> None:
    methods = SECTION.sub("", (ROOT / "docs/contracts/gates.md").read_text())

    assert re.findall(r"^\| (?!gate)([a-z ]+) \|", methods, re.MULTILINE) == [gate.name for gate in decision.GATES]


if __name__ == "__main__":
    for path, section in FILES.items():
        before, after = SECTION.split(path.read_text())
        path.write_text(before + section() + after)
