"""Every way to install the service installs the same packages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
POSTINST = (ROOT / "systemd" / "build-deb").read_text()


def test_the_debian_package_installs_the_extras_that_make_install_does() -> None:
    extras = re.findall(r"^\t\$\(PIP_INSTALL\).*\[([a-z,]+)\]", MAKEFILE, re.MULTILINE)

    assert extras
    assert re.findall(r"\[([a-z,]+)\]\"", POSTINST) == extras


def test_every_way_to_install_uses_the_same_torch_version() -> None:
    assert len(set(re.findall(r"torch==(\S+)", MAKEFILE + POSTINST))) == 1
