"""The lock files hold every package of their extra, by a version that pyproject.toml accepts and that was tested."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = sorted({"base", *PROJECT["optional-dependencies"]} - {"docs", "test"})
PIN = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^ ;\\]+)[^\\\n]*(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)$",
    re.MULTILINE,
)


def pins_in(extra: str) -> dict[NormalizedName, str]:
    text = (ROOT / f"locks/{extra}.txt").read_text()
    pins = {canonicalize_name(found["name"]): str(found["version"]) for found in PIN.finditer(text)}
    assert len(pins) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)), "each has a hash"
    return pins


def requirements_of(extra: str) -> list[Requirement]:
    """Of the extra and those that it includes, on Linux."""
    found = []
    for text in PROJECT["dependencies"] if extra == "base" else PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "retrain-worker":
            found += [each for included in requirement.extras for each in requirements_of(included)]
        elif requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux"}):
            found.append(requirement)
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_holds_what_its_extra_requires(extra: str) -> None:
    pins = pins_in(extra)
    for requirement in {*requirements_of(extra), *requirements_of("base")}:
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: locks/{extra}.txt has {version}; run make lock"


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_has_the_versions_of_the_tests(extra: str) -> None:
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    torch = re.search(r"^TORCH +:= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch is not None
    tested[canonicalize_name("torch")] = f"{torch[1]}+cpu"
    found = pins_in(extra)
    assert {name: version for name, version in found.items() if tested.get(name, version) != version} == {}
    assert not {name for name in found if name.startswith(("nvidia-", "cuda-"))}, "torch for CPUs"
