"""A disposable machine: an overlay over this host's root, a systemd of its own in it, and nothing of it afterwards.

Never boots on the host's own root, which would empty its /tmp and start its units. Everything that is written goes to a
tmpfs in a directory of the machine's own. The control groups lie below this process's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).parents[2]
VENV = "/opt/retrain-worker/venv"
SOURCE = "/usr/src/retrain-worker"
#: what a copy of the source needs to be installed from
_SOURCES = (
    "retrain_worker",
    "systemd",
    "etc",
    "docs",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
)
#: units of this host that are no part of the test
_MASKED = (
    "avahi-daemon.service",
    "avahi-daemon.socket",
    "postgresql.service",
    "e2scrub_reap.service",
    "systemd-timesyncd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "machines.target",
    "systemd-resolved.service",
    "systemd-networkd.service",
    "NetworkManager.service",
    "ssh.service",
    "cron.service",
    "docker.service",
    "containerd.service",
)
_PATIENCE_SECONDS = 300.0
_PREFIX = "retrain-worker-machine-"


def why_not() -> str | None:
    """What keeps a machine from running here, or None."""
    if os.geteuid() != 0:
        return "a machine needs root"
    for command in ("systemd-nspawn", "nsenter", "redis-server"):
        if shutil.which(command) is None:
            return f"{command} is not installed (systemd-container, util-linux, redis-server)"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay file system"
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        return "this host allows no mounts"
    return None


FoundT = TypeVar("FoundT")


class Machine:
    """Prepared by the constructor, at work from `boot` to `power_cut`, gone after `remove`."""

    def __init__(self) -> None:
        _sweep_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self.root = self.folder / "root"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._groups = [group / self.folder.name for group in _own_control_groups()]
        self._init = 0
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=4g", "tmpfs", self.folder], check=True)
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(mode=0o755)
        options = f"lowerdir=/,upperdir={self.folder}/upper,workdir={self.folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.root], check=True)
        self._prepare()

    def _prepare(self) -> None:
        (self.root / "etc/machine-id").unlink(missing_ok=True)
        (self.root / "etc/machine-id").write_text(os.urandom(16).hex() + "\n")
        (self.root / "root").chmod(0o711)  # a service user must get past it
        for unit in _MASKED:
            link = self.root / "etc/systemd/system" / unit
            link.unlink(missing_ok=True)
            link.symlink_to("/dev/null")
        shutil.rmtree(self.root / "var/log/journal", ignore_errors=True)
        (self.root / "var/log/journal").mkdir()
        source = self.root / SOURCE[1:]
        source.mkdir(parents=True)
        for name in _SOURCES:
            if (REPOSITORY / name).is_dir():
                shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(REPOSITORY / name, source / name)

    def boot(self) -> None:
        """Start its systemd and wait until it has come up."""
        binds = [f"--bind-ro={outside}:{inside}" for outside, inside in (*_present_packages(), *_present_python())]
        for group in self._groups:
            group.mkdir(exist_ok=True)
        enter = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
        # setpriv: it ends with the thread that starts it, whatever becomes of us
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "systemd-nspawn",
            f"--directory={self.root}",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
            "--console=pipe",
            *binds,
            "systemd.unit=multi-user.target",
        ]
        with (self.folder / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", enter, "sh", *map(str, self._groups), "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._init = int(self._wait_for(self._init_pid, "the machine's first process"))
        self._wait_for(
            lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"),
            "the machine to come up",
        )
        # Version 1 controllers are read-only in a container; these two are ours below our own group.
        for controller in ("memory", "cpu"):
            self.run("mount", "-o", "remount,bind,rw", f"/sys/fs/cgroup/{controller}", check=False)
        self.run("systemctl", "daemon-reexec")

    def power_cut(self) -> None:
        """Every process is gone at once; what was written stays."""
        assert self._nspawn is not None
        os.kill(self._init, signal.SIGKILL)
        self._nspawn.wait(60)
        self._nspawn = None

    def run(self, *command: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-n", "-C", "--", *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd="/",
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def shell(self, script: str, *, check: bool = True) -> str:
        """The output of a script inside."""
        return self.run("sh", "-c", script, check=check).stdout

    def path(self, inside: str) -> Path:
        """A file inside, seen from here."""
        return self.root / inside.lstrip("/")

    def prepare_environment(self) -> None:
        """The virtual environment as `make install` would make it, but with the packages of the present one.

        A download of PyTorch for each test would take minutes and a network; pip finds everything satisfied instead.
        """
        python = f"{_present_python()[0][1]}/bin/python3" if _present_python() else os.path.realpath(sys.executable)
        # its shared library is looked for where ProtectHome= hides it, then here, then among the system's
        self.path("/etc/ld.so.conf.d/00-present-python.conf").write_text(
            "".join(f"{inside}/lib\n" for _outside, inside in _present_python())
        )
        self.run("ldconfig")
        self.run(python, "-m", "venv", VENV)
        self.path(f"{VENV}/.retrain-worker").touch()
        site = next(self.path(f"{VENV}/lib").glob("python*/site-packages"))
        (site / "present.pth").write_text("".join(f"{inside}\n" for _outside, inside in _present_packages()))
        shutil.rmtree(next(site.glob("setuptools-*")), ignore_errors=True)
        shutil.rmtree(site / "setuptools", ignore_errors=True)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`make` in the source, without a network."""
        return self.offline("make", "-C", SOURCE, *arguments)

    def build_package(self) -> str:
        """The Debian package, as `make deb` makes it; its path inside."""
        self.offline(f"{VENV}/bin/pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", f"{SOURCE}/build/wheel", SOURCE)
        (wheel,) = self.path(f"{SOURCE}/build/wheel").glob("*.whl")
        self.offline(f"{SOURCE}/systemd/build-deb", f"{SOURCE}/build/wheel/{wheel.name}", "0.0.1")
        return f"{SOURCE}/build/retrain-worker_0.0.1_all.deb"

    def offline(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command with a pip that has no index."""
        return self.run("env", "PIP_NO_INDEX=1", "PIP_NO_BUILD_ISOLATION=0", "PIP_ROOT_USER_ACTION=ignore", *command)

    def remove(self) -> None:
        """Nothing of it stays: no process, no mount, no file, no control group."""
        if self._nspawn is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init or self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait(60)
        _unmount(self.folder)
        for group in self._groups:
            for _ in range(20):  # the kernel needs a moment after the last process
                for folder, _names, _files in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(folder).rmdir()
                if not group.exists():
                    break
                time.sleep(0.1)

    def _init_pid(self) -> int:
        """The machine's first process; 0 before it is one."""
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise AssertionError((self.folder / "console").read_text(errors="replace"))
        workers = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        # its first worker only prepares the ground
        return next((int(pid) for pid in workers if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), 0)

    @staticmethod
    def _wait_for(condition: Callable[[], FoundT | None], what: str) -> FoundT:
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited in vain for {what}")


def _sweep_leftovers() -> None:
    """What a killed test run has left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if not Path("/proc", folder.name.removeprefix(_PREFIX).split("-")[0]).exists():
            for group in _own_control_groups():
                for listed in (group / folder.name).rglob("cgroup.procs"):
                    for pid in listed.read_text().split():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
            _unmount(folder)


def _unmount(folder: Path) -> None:
    """Take the machine's file systems away; never removes a file, so a mount that stays is safe."""
    for mount in (folder / "root", folder):
        if mount.is_mount():
            subprocess.run(["umount", mount], check=True)
    folder.rmdir()


def _own_control_groups() -> list[Path]:
    """Where this process is, in each hierarchy in which systemd counts or limits."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        name = controllers.removeprefix("name=")
        for mount in (
            [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
            if not name
            else [Path("/sys/fs/cgroup") / name]
            if name in ("systemd", "memory", "cpu")
            else []
        ):
            if (mount / path.lstrip("/") / "cgroup.procs").exists():
                found.append(mount / path.lstrip("/"))
                break
    return found


def _present_packages() -> list[tuple[str, str]]:
    """The present environment's packages, and where they are seen inside."""
    outside = [path for path in sys.path if path.endswith("site-packages") and Path(path).is_dir()]
    return [(path, f"/opt/quantum/present/{number}") for number, path in enumerate(outside)]


def _present_python() -> list[tuple[str, str]]:
    """An interpreter that ProtectHome= would hide is seen elsewhere inside."""
    is_hidden = sys.base_prefix.startswith(("/root/", "/home/"))
    return [(sys.base_prefix, "/opt/python")] if is_hidden else []
