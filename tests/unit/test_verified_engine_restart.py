"""The restart unit: what it refuses, and that it does not miss a swap during a restart."""

import hashlib
import importlib.util
import json
import marshal
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retrain_worker import signing
from retrain_worker.adapters import verified_engine_restart
from retrain_worker.adapters.engine_environment import LOADER_NAMES
from retrain_worker.adapters.verified_engine_restart import EngineRestart
from retrain_worker.domain.artifact import checksum_file, checksum_line, manifest_file
from retrain_worker.errors import ArtifactError, SlotError
from retrain_worker.signing import Signer, Verifier


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine directory with two models, and a systemctl that writes down what it is told."""
    monkeypatch.setattr(verified_engine_restart, "_SETTLE_SECONDS", 0.0)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "systemctl").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\nsh {tmp_path}/then "$1"\n')
    (bin_dir / "systemctl").chmod(0o755)
    (tmp_path / "then").write_text("echo active; exit 0\n")
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    models = tmp_path / "models"
    models.mkdir()
    for day in (1, 2):
        write_model(models / f"patchtst_v2026010{day}_000000.pth", b"weights %d" % day)
    return tmp_path


def write_model(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    checksum_file(path).write_text(checksum_line(path, hashlib.sha256(content).hexdigest()))


def name(stack: Path, model: object, *lines: object) -> None:
    (stack / "engine.env").write_text("\n".join([f"PATCHTST_MODEL_PATH={model}", *map(str, lines), ""]))


def restart(stack: Path) -> str:
    return EngineRestart(
        engine_models_dir=stack / "models", engine_env_file=stack / "engine.env", unit="engine.service"
    ).restart()


def calls(stack: Path) -> list[str]:
    return (stack / "calls").read_text().splitlines() if (stack / "calls").exists() else []


def test_a_valid_slot_causes_one_restart(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")

    assert restart(stack) == "engine.service was restarted with patchtst_v20260101_000000.pth"
    assert [call for call in calls(stack) if "restart" in call] == ["try-restart engine.service"]


def test_a_swap_during_the_restart_causes_another_restart(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text(
        f'[ "$1" = try-restart ] && sed -i s/v20260101/v20260102/ {stack}/engine.env\necho active\n'
    )

    assert restart(stack) == "engine.service was restarted with patchtst_v20260102_000000.pth"
    assert len([call for call in calls(stack) if "restart" in call]) == 2


def test_an_engine_that_is_not_running_is_not_started(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text("echo inactive; exit 3\n")

    assert "not running" in restart(stack)
    assert not [call for call in calls(stack) if "restart" in call]


def test_a_model_of_the_stack_with_a_name_like_ours_is_accepted(stack: Path) -> None:
    of_the_stack = stack / "models/patchtst_v20260109_233444.pth"
    of_the_stack.write_bytes(b"weights, and nothing beside them")
    name(stack, of_the_stack)

    assert restart(stack) == f"engine.service was restarted with {of_the_stack.name}"


def test_an_invalid_slot_causes_no_restart(stack: Path) -> None:
    model = stack / "models/patchtst_v20260101_000000.pth"
    (stack / "elsewhere.pth").write_bytes(b"x")
    (stack / "models/link.pth").symlink_to(model)
    published = stack / "models/patchtst_v20260103_000000.pth"
    published.write_bytes(b"no checksum beside it")
    manifest_file(published).write_text("{}")
    (stack / "models/folder.pth").mkdir()
    wrong = [
        (stack / "elsewhere.pth",),
        (stack / "models/link.pth",),
        (stack / "models/missing.pth",),
        (stack / "models/../elsewhere.pth",),
        (stack / "models/patchtst_v20260103_000000.pth",),
        (stack / "models/folder.pth",),
        (model, "LD_PRELOAD=/tmp/evil.so"),
        (model, "PYTHONPATH=/tmp"),
    ]
    for lines in wrong:
        name(stack, *lines)
        with pytest.raises((SlotError, ArtifactError)):
            restart(stack)
    model.write_bytes(b"weights 0")
    name(stack, model)
    with pytest.raises(ArtifactError, match="sha256"):
        restart(stack)
    assert calls(stack) == []


def test_an_external_model_needs_no_checksum(stack: Path) -> None:
    (stack / "models/legacy.pth").write_bytes(b"x")
    name(stack, stack / "models/legacy.pth")

    assert "legacy.pth" in restart(stack)


def test_an_engine_that_does_not_stay_active_is_an_error(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text('[ "$1" = try-restart ] && exit 1\necho active\n')

    with pytest.raises(SlotError, match="does not stay active"):
        restart(stack)


def test_a_removed_env_line_causes_a_restart(stack: Path) -> None:
    (stack / "engine.env").write_text("PATCHTST_SHADOW_ONLY=true\n")

    assert restart(stack) == "engine.service was restarted with no model"
    assert "try-restart engine.service" in calls(stack)


def test_an_engine_that_is_starting_may_have_read_the_old_line_and_is_restarted(stack: Path) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    (stack / "then").write_text(
        f'[ "$1" = try-restart ] && touch {stack}/up\n[ -e {stack}/up ] && echo active && exit 0\n'
        "echo activating; exit 3\n"
    )

    assert "was restarted with" in restart(stack)


def test_with_required_signatures_only_a_signed_model_causes_a_restart(stack: Path) -> None:
    signer, stranger = Signer(signing.new_key()), Signer(signing.new_key())
    model, other = (stack / f"models/patchtst_v2026010{day}_000000.pth" for day in (1, 2))
    name(stack, model)
    engine = EngineRestart(
        engine_models_dir=stack / "models",
        engine_env_file=stack / "engine.env",
        unit="engine.service",
        verifier=Verifier([signer.public_key]),
    )

    def statement(path: Path, **changes: str) -> dict[str, str]:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"purpose": "model", "sha256": sha256, "promoted_at": "2026-01-10T00:00:00+00:00", **changes}

    with pytest.raises(ArtifactError, match="not signed"):
        engine.restart()
    for key, signed in (
        (stranger, statement(model)),
        (signer, statement(other)),
        (signer, statement(model, purpose="slot")),
        (signer, statement(model, promoted_at="yesterday")),
    ):
        key.write(model, signed)
        with pytest.raises(ArtifactError):
            engine.restart()
    assert calls(stack) == []

    signer.write(model, statement(model))
    assert "was restarted" in engine.restart()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def link_to_a_copy(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.with_name(f"{path.name}.before").read_bytes())
    path.symlink_to(copy)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "place", ["models/patchtst_v20260101_000000.pth", "models/patchtst_v20260101_000000.pth.sha256", "engine.env"]
)
@pytest.mark.parametrize("trap", [fifo, endless, huge, link_to_a_copy, folder])
def test_only_regular_files_of_a_sensible_size_are_read(stack: Path, place: str, trap: Callable[[Path], None]) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth")
    path = stack / place
    path.rename(path.with_name(f"{path.name}.before"))
    trap(path)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(SlotError):
        restart(stack)

    assert calls(stack) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 50_000, "KiB"


@pytest.mark.parametrize("variable", sorted(LOADER_NAMES))
def test_a_variable_that_loads_other_code_prevents_the_restart(stack: Path, variable: str) -> None:
    name(stack, stack / "models/patchtst_v20260101_000000.pth", f"{variable}=/tmp/evil")

    with pytest.raises(SlotError, match=rf"\b{variable}\b"):
        restart(stack)
    assert calls(stack) == []


#: cannot name code, a folder of code, or a file that is written
HARMLESS = {
    "PYTHONASYNCIODEBUG",
    "PYTHONCOERCECLOCALE",
    "PYTHONDEBUG",
    "PYTHONDEVMODE",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONFAULTHANDLER",
    "PYTHONHASHSEED",
    "PYTHONINTMAXSTRDIGITS",
    "PYTHONIOENCODING",
    "PYTHONMALLOC",
    "PYTHONMALLOCSTATS",
    "PYTHONNODEBUGRANGES",
    "PYTHONNOUSERSITE",
    "PYTHONOPTIMIZE",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONSAFEPATH",
    "PYTHONTRACEMALLOC",
    "PYTHONUNBUFFERED",
    "PYTHONUTF8",
    "PYTHONVERBOSE",
    "PYTHONWARNDEFAULTENCODING",
    "PYTHONLEGACYWINDOWSFSENCODING",
    "PYTHONLEGACYWINDOWSSTDIO",
    "PYTHON_BASIC_REPL",
    "PYTHON_COLORS",
    "PYTHON_CONTEXT_AWARE_WARNINGS",
    "PYTHON_CPU_COUNT",
    "PYTHON_DISABLE_REMOTE_DEBUG",
    "PYTHON_FROZEN_MODULES",
    "PYTHON_GIL",
    "PYTHON_JIT",
    "PYTHON_THREAD_INHERIT_CONTEXT",
    "PYTHON_TLBC",
}
#: sysdeps/generic/unsecvars.h of glibc 2.36: what a set-uid program ignores
UNSECURE = """
GCONV_PATH GETCONF_DIR GLIBC_TUNABLES HOSTALIASES LD_AUDIT LD_DEBUG LD_DEBUG_OUTPUT LD_DYNAMIC_WEAK LD_HWCAP_MASK
LD_LIBRARY_PATH LD_ORIGIN_PATH LD_PRELOAD LD_PROFILE LD_SHOW_AUXV LD_USE_LOAD_BIAS LOCALDOMAIN LOCPATH MALLOC_TRACE
NIS_PATH NLSPATH RESOLV_HOST_CONF RES_OPTIONS TMPDIR TZDIR
"""


def test_every_variable_that_the_loader_and_this_python_know_is_judged() -> None:
    help_text = subprocess.run([sys.executable, "--help-env"], check=True, capture_output=True, text=True).stdout
    known = set(re.findall(r"^(PYTHON\w+)", help_text, re.MULTILINE))
    assert "PYTHONPATH" in known
    assert known - HARMLESS <= LOADER_NAMES
    assert set(UNSECURE.split()) <= LOADER_NAMES


CODE = "import pathlib; pathlib.Path({marker!r}).touch()"


def python_path(folder: Path, code: str) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def user_base(folder: Path, code: str) -> dict[str, str]:
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    site.mkdir(parents=True)
    (site / "a.pth").write_text(code)
    return {"PYTHONUSERBASE": str(folder)}


def home(folder: Path, code: str) -> dict[str, str]:
    user_base(folder / ".local", code)
    return {"HOME": str(folder)}


def cache_prefix(folder: Path, code: str) -> dict[str, str]:
    """A compiled module that is not compared with its source."""
    source = json.__file__
    cached = folder / Path(importlib.util.cache_from_source(source)).parent.parent.relative_to("/")
    cached.mkdir(parents=True)
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)  # PEP 552: unchecked
    data = header + marshal.dumps(compile(code, source, "exec"))
    (cached / Path(importlib.util.cache_from_source(source)).name).write_bytes(data)
    return {"PYTHONPYCACHEPREFIX": str(folder)}


def bash_env(folder: Path, code: str) -> dict[str, str]:
    (folder / "code.py").write_text(code)
    (folder / "script").write_text(f"{sys.executable} {folder}/code.py\n")
    return {"BASH_ENV": str(folder / "script")}


def path(folder: Path, code: str) -> dict[str, str]:
    (folder / "ls").write_text(f"#!{sys.executable}\n{code}\n")
    (folder / "ls").chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


PROGRAM = "import subprocess, json; subprocess.run(['bash', '-c', 'ls'], check=True)"


@pytest.mark.parametrize("attack", [python_path, user_base, home, cache_prefix, bash_env, path])
def test_a_listed_variable_runs_code_in_a_program_that_gets_it(
    tmp_path: Path, attack: Callable[[Path, str], dict[str, str]]
) -> None:
    """So that the list is not a superstition: an engine of Python that starts a shell command."""
    marker = tmp_path / "marker"
    variables = attack(tmp_path, CODE.format(marker=str(marker)))
    # in a virtual environment, a user's packages are ignored
    python = Path(sys.base_prefix) / f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    environment = {"PATH": "/usr/bin:/bin"}
    for given, expected in (({}, False), (variables, True)):
        subprocess.run([python, "-c", PROGRAM], env=environment | given, check=True, stdout=subprocess.DEVNULL)
        assert marker.exists() is expected
    assert set(variables) <= LOADER_NAMES
