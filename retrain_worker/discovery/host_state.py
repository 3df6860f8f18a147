"""State of this host: file systems, block devices, units of systemd, the live Redis. Nothing is changed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from retrain_worker.discovery.proof_pack import BlockDevice, FileSystem, Host, LiveRedis
from retrain_worker.domain.connection_url import shown
from retrain_worker.domain.printable import printable
from retrain_worker.errors import RetrainError

_SYS_BLOCK = Path("/sys/block")
_SECTOR_BYTES = 512  # of /sys/block/*/size, whatever the device's own sectors are
_UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_SYSTEMCTL_SECONDS = 5
_REDIS_SETTINGS = ("save", "appendonly", "appendfsync", "dir", "dbfilename", "maxmemory", "maxmemory-policy")
_REDIS_PERSISTENCE = (
    "rdb_last_save_time",
    "rdb_changes_since_last_save",
    "rdb_last_bgsave_status",
    "aof_enabled",
    "aof_last_write_status",
    "aof_last_bgrewrite_status",
)


def host() -> Host:
    """File systems with their use, and block devices."""
    gaps: list[str] = []
    file_systems = tuple(_file_systems(gaps))
    devices = tuple(_block_devices(file_systems, gaps))
    return Host(
        name=printable(socket.gethostname()), file_systems=file_systems, block_devices=devices, gaps=tuple(gaps)
    )


def unit_states(units: Sequence[Path]) -> dict[Path, str]:
    """Unit file -> active, inactive, failed ...; only of those that systemd has loaded from its own directories."""
    own = [path for path in units if str(path.parent) in _UNIT_DIRECTORIES]
    if not own or not (systemctl := shutil.which("systemctl")):
        return {}
    command = [systemctl, "is-active", "--", *(path.name for path in own)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SYSTEMCTL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {path: printable(state) for path, state in zip(own, done.stdout.splitlines(), strict=False)}


def live_redis(url: str) -> LiveRedis:
    """What Redis persists, and when it last did."""
    from redis.exceptions import RedisError

    from retrain_worker.redis_client import connect, text_of, unavailable

    where = shown(url)
    try:
        client = connect(url)
        try:
            info = client.info("persistence")
            settings = {name: printable(info[name]) for name in _REDIS_PERSISTENCE if name in info}
            try:
                for name in _REDIS_SETTINGS:
                    settings |= {
                        printable(text_of(key or b"")): printable(text_of(value or b""))
                        for key, value in client.config_get(name).items()
                    }
            except RedisError as error:
                settings["CONFIG GET"] = printable(unavailable(error, client).what)
        except (RedisError, OSError) as error:
            raise unavailable(error, client) from error
        finally:
            client.close()
    except RetrainError as error:
        return LiveRedis(where=where, problem=printable(error.what))
    return LiveRedis(where=where, settings=settings)


def _file_systems(gaps: list[str]) -> Iterator[FileSystem]:
    seen = set()
    for mount in psutil.disk_partitions(all=True):
        try:
            device = Path(mount.mountpoint).stat().st_dev
            usage = psutil.disk_usage(mount.mountpoint)
        except OSError as error:
            gaps.append(f"{printable(mount.mountpoint)}: {error.strerror}")
            continue
        if device not in seen and usage.total:  # a bind mount shows a file system again
            seen.add(device)
            yield FileSystem(
                device=printable(os.path.realpath(mount.device) if mount.device.startswith("/") else mount.device),
                mount_point=printable(mount.mountpoint),
                kind=printable(mount.fstype),
                size=usage.total,
                used=usage.used,
                available=usage.free,
            )


def _block_devices(file_systems: Sequence[FileSystem], gaps: list[str]) -> Iterator[BlockDevice]:
    try:
        disks = sorted(_SYS_BLOCK.iterdir())
    except OSError as error:
        gaps.append(f"{_SYS_BLOCK}: {error.strerror}")
        return
    for disk in disks:
        if size := _size(disk):
            yield _device(disk.name, "", size, file_systems)
            for part in sorted(disk.iterdir()):
                if (part / "partition").exists():
                    yield _device(part.name, disk.name, _size(part), file_systems)


def _device(name: str, parent: str, size: int, file_systems: Sequence[FileSystem]) -> BlockDevice:
    mounted = [each for each in file_systems if each.device == f"/dev/{name}"]
    return BlockDevice(
        name=printable(name),
        parent=printable(parent),
        size=size,
        kind=mounted[0].kind if mounted else "",
        mount_points=tuple(each.mount_point for each in mounted),
    )


def _size(device: Path) -> int:
    try:
        return int((device / "size").read_text()) * _SECTOR_BYTES
    except (OSError, ValueError):
        return 0
