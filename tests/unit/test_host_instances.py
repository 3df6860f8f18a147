"""An instance of the template unit: its units, defaults and commands agree, and differ from those of any other."""

import re
import subprocess
from pathlib import Path

import pytest

from retrain_worker import settings
from retrain_worker.cli import options
from retrain_worker.cli.parser import parse
from retrain_worker.domain.host_names import HostNames
from retrain_worker.errors import SettingsError, UsageError

SYSTEMD = Path(__file__).parents[2] / "systemd"
BTC = HostNames(instance="btc")


def unit(name: str, host: HostNames) -> dict[str, str]:
    """The lines of a unit: of the plain one, or of an instance of its template."""
    text = (SYSTEMD / name).read_text()
    if host.instance:
        made = subprocess.run(["sed", "-f", SYSTEMD / "instance.sed", SYSTEMD / name], capture_output=True, check=True)
        text = made.stdout.decode().replace("%i", host.instance)
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("host", [HostNames(), BTC])
def test_the_units_name_what_the_program_names(host: HostNames) -> None:
    service, path = unit("quantum-retraining-worker.service", host), unit("quantum-ai-engine-restart.path", host)
    option = f" --instance {host.instance}" if host.instance else ""

    assert service["EnvironmentFile"] == str(host.env_file)
    assert service["LoadCredential"] == f"settings:{host.credentials}"
    assert f"/var/lib/{service['StateDirectory']}" == host.state_path
    assert f"/run/{service['RuntimeDirectory']}" == host.runtime_path
    assert service["Wants"] == host.restart_path_unit
    assert f"-{host.engine_models_dir}" in service["ReadWritePaths"].split()
    assert service["ExecStart"].endswith(f"/retrain-worker run{option}")
    assert service["ExecReload"].endswith(f"/retrain-worker reload{option} --pid $MAINPID")
    assert path["PathChanged"] == f"{host.runtime_path}/engine-restart"
    restart = unit("quantum-ai-engine-restart.service", host)
    assert restart["ExecStart"].endswith(f"/retrain-worker restart-engine{option}")


def test_no_path_or_unit_of_an_instance_is_one_of_another() -> None:
    of_names = [settings.load({}, host_names=host).names for host in (HostNames(), BTC, HostNames(instance="eth"))]
    different = {name for name in of_names[0] if len({names[name] for names in of_names}) == len(of_names)}

    assert different == {
        "STATE_PATH",
        "MODEL_PATH",
        "CHECKPOINT_PATH",
        "ENGINE_MODELS_DIR",
        "ENGINE_ENV_FILE",
        "ENGINE_TRIGGER_FILE",
        "ENGINE_UNIT",
        "INSTANCE",
    }
    assert settings.load({"INSTANCE": "blue"}, host_names=BTC).redis_names.instance == "blue"


@pytest.mark.parametrize(
    "words", [["-i", "btc", "status"], ["--instance=btc", "status"], ["status", "--instance", "btc"], ["-i", "btc"]]
)
def test_a_command_addresses_an_instance_before_or_after_the_verb(words: list[str]) -> None:
    arguments = parse(words)

    assert (arguments.verb, arguments.next) == ("status", "status" not in words)
    assert options.host_names_of(arguments) == BTC
    assert options.env_file_of(arguments) == Path("/etc/quantum/retraining-worker-btc.env")


def test_an_instance_without_settings_is_no_instance() -> None:
    with pytest.raises(SettingsError, match=r"cannot read /etc/quantum/retraining-worker-misspelt\.env"):
        options.read_settings(parse(["status", "-i", "misspelt"]), {})


@pytest.mark.parametrize(
    "words", [["-i", "a/b", "status"], ["-i", "btc", "status", "--home", "/h"], ["-i", "btc", "inspect", "m"], ["-i"]]
)
def test_what_is_no_instance_is_wrong_usage(words: list[str]) -> None:
    with pytest.raises(UsageError):
        options.host_names_of(parse(words))
