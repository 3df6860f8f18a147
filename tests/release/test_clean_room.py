"""Each artifact of build/release, installed without a network from the wheels in build/wheelhouse, runs the demo.

`make test-release` makes both and runs this; without them it is skipped. `unshare --net` leaves a process no network;
the machine that the Debian package is installed in has none either.
"""

import email
import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrain_worker import __version__
from tests.systemd.machine import Machine, why_not

ROOT = Path(__file__).parents[2]
RELEASE, WHEELHOUSE = ROOT / "build/release", ROOT / "build/wheelhouse"
WHEEL = RELEASE / f"retrain_worker-{__version__}-py3-none-any.whl"
SDIST = RELEASE / f"retrain_worker-{__version__}.tar.gz"
PACKAGE = RELEASE / f"retrain-worker_{__version__}_all.deb"
SBOM = RELEASE / f"retrain_worker-{__version__}.cdx.json"
SHARE = "usr/share/retrain-worker"

pytestmark = [
    pytest.mark.skipif(not (WHEEL.exists() and WHEELHOUSE.exists()), reason="needs `make release wheelhouse`"),
    pytest.mark.timeout(1800),
]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def without_network(*command: str | Path) -> str:
    return run("unshare", "--net", "--", "env", "PIP_CONFIG_FILE=/dev/null", *command)


def test_the_checksums_are_those_of_the_artifacts() -> None:
    lines = [line.split("  ") for line in (RELEASE / "SHA256SUMS").read_text().splitlines()]
    listed = {name: digest for digest, name in lines}

    assert set(listed) == {path.name for path in (WHEEL, SDIST, PACKAGE, SBOM)}
    for name, digest in listed.items():
        assert hashlib.sha256((RELEASE / name).read_bytes()).hexdigest() == digest


def test_the_metadata_says_who_what_and_under_which_licence() -> None:
    with zipfile.ZipFile(WHEEL) as wheel:
        info = f"retrain_worker-{__version__}.dist-info"
        metadata = email.message_from_string(wheel.read(f"{info}/METADATA").decode())
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()

    assert (metadata["Name"], metadata["Version"]) == ("retrain-worker", __version__)
    assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    assert metadata["Author"] == "retrain_worker maintainers"
    assert metadata.get_all("Project-URL") is None, "there is no public index or repository"
    assert not [each for each in metadata.get_all("Classifier", []) if each.startswith("License")]


def test_the_sdist_holds_what_an_installation_needs_and_nothing_that_was_built() -> None:
    with tarfile.open(SDIST) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    wanted = {"Makefile", "constraints.txt", "systemd/build-deb", "locks/daemon.txt", "docs/operations.md", "LICENSE"}
    assert wanted <= names
    assert not [name for name in names if name.startswith(("build", "tests")) or name.endswith(".pyc")]


def test_the_list_of_components_is_of_this_version() -> None:
    found = json.loads(SBOM.read_text())

    assert (found["metadata"]["component"]["name"], found["metadata"]["component"]["version"]) == (
        "retrain-worker",
        __version__,
    )
    assert {"torch", "redis", "msgspec"} <= {each["name"] for each in found["components"]}


@pytest.mark.parametrize("artifact", [WHEEL, SDIST], ids=["wheel", "sdist"])
def test_pip_installs_it_without_a_network_and_the_demo_promotes(artifact: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    run(sys.executable, "-m", "venv", environment)
    offline = ("--no-index", "--find-links", WHEELHOUSE)
    without_network(environment / "bin/pip", "install", "--quiet", *offline, f"{artifact}[daemon]")
    command = environment / "bin/retrain-worker"

    assert without_network(command, "--version").split()[-1] == __version__
    shown = without_network(command, "demo", "--home", tmp_path / "home")
    assert "PROMOTED" in shown
    print(shown)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    if reason := why_not():
        pytest.skip(reason)
    machine = Machine()
    try:
        machine.boot()
        yield machine
    finally:
        machine.remove()


def test_dpkg_installs_the_package_without_a_network_and_the_demo_promotes(machine: Machine, tmp_path: Path) -> None:
    run("dpkg-deb", "--extract", PACKAGE, tmp_path)
    assert (tmp_path / SHARE / WHEEL.name).read_bytes() == WHEEL.read_bytes(), "the wheel of the release"
    offline = ["env", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELHOUSE}", "PIP_CONFIG_FILE=/dev/null"]
    machine.run(*offline, "dpkg", "--install", str(PACKAGE), timeout=900)

    assert machine.run("retrain-worker", "--version").stdout.split()[-1] == __version__
    shown = machine.run("retrain-worker", "demo", "--home", "/var/tmp/demo", timeout=900).stdout
    assert "PROMOTED" in shown
    print(shown)
    machine.run("dpkg", "--purge", "retrain-worker")
    assert not machine.path("/opt/retrain-worker").exists()
