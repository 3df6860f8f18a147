"""The commands of docs/how-to, as they are printed, on a machine with systemd, by root."""

import re

from retrain_worker.cli.exit_codes import ExitCode
from tests.reference_pages import ROOT
from tests.systemd.conftest import Host


def commands(page: str) -> list[str]:
    """The lines of the indented blocks of a page, without their comments."""
    lines = re.findall(r"^    (\S.*)$", (ROOT / "docs/how-to" / page).read_text(), re.MULTILINE)
    return [line.partition(" # ")[0].strip() for line in lines]


def test_install_roll_back_and_pause_as_the_pages_say(host: Host) -> None:
    host.systemctl("start", "quantum-ai-engine")
    check, enable = [line for line in commands("install.md") if line.startswith(("retrain-worker check", "systemctl"))]
    host.shell(check)
    host.shell(enable)
    assert host.wait_outcome(1) == "PROMOTED", "\n".join(host.messages())
    version = host.shell("basename $(sed -n s/^PATCHTST_MODEL_PATH=//p /etc/quantum/ai-engine.env) .pth").strip()

    deployments, _, any_version, to_none, status = commands("roll-back.md")
    assert version in host.shell(deployments)
    host.shell(to_none.replace("…", "a test"))
    assert "PATCHTST_MODEL_PATH" not in host.shell("cat /etc/quantum/ai-engine.env")
    host.shell(re.sub(r"patchtst_v\w+", version, any_version.replace("…", "the test is over")))
    assert version in host.shell(f"{status}; cat /etc/quantum/ai-engine.env")

    pause, resume, both, trigger = commands("pause.md")
    host.shell(pause)
    assert "paused" in host.shell(status)
    host.shell(resume)
    assert "paused" not in host.shell(status)
    # one model was promoted: there is no earlier one, and the pause holds all the same
    assert host.run("sh", "-c", both, check=False).returncode == ExitCode.REFUSED
    assert "paused" in host.shell(status)
    host.shell(f"{resume}; {trigger}")
