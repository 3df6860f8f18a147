"""Storage, running units and the live Redis of this host, asked without changing any of them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from retrain_worker.discovery.pack import BlockDevice, FileSystem, Host, LiveRedis, shown
from retrain_worker.discovery.scan import PSEUDO_FILE_SYSTEMS, Mount, mounts
from retrain_worker.errors import RetrainError

_SYS_BLOCK = Path("/sys/block")
_SECTOR_BYTES = 512  # of /sys/block/*/size, whatever the device's own sectors are
_UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_PATIENCE_SECONDS = 5
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
    mounted = [mount for mount in mounts() if mount.kind not in PSEUDO_FILE_SYSTEMS]
    file_systems = tuple(_file_systems(mounted, gaps))
    devices = tuple(_block_devices(mounted, gaps))
    return Host(name=shown(socket.gethostname()), file_systems=file_systems, block_devices=devices, gaps=tuple(gaps))


def unit_state(path: Path) -> str:
    """What systemd says of the unit file at `path`: active, inactive, failed ...; empty where it is not asked."""
    if str(path.parent) not in _UNIT_DIRECTORIES or not (systemctl := shutil.which("systemctl")):
        return ""
    try:
        done = subprocess.run(
            [systemctl, "is-active", "--", path.name],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown(done.stdout.strip())


def live_redis(url: str) -> LiveRedis:
    """What Redis keeps and when it last did; asks, changes nothing."""
    from redis.exceptions import RedisError

    from retrain_worker.redis_client import connect, text_of, unavailable, where_of

    where = where_of(url)
    try:
        client = connect(url)
        try:
            info = client.info("persistence")
            said = {name: shown(str(info[name])) for name in _REDIS_PERSISTENCE if name in info}
            try:
                for name in _REDIS_SETTINGS:
                    said |= {
                        shown(text_of(key or b"")): shown(str(text_of(value or b"")))
                        for key, value in client.config_get(name).items()
                    }
            except RedisError as error:
                said["CONFIG GET"] = shown(unavailable(error, client).what)
        except (RedisError, OSError) as error:
            raise unavailable(error, client) from error
        finally:
            client.close()
    except RetrainError as error:
        return LiveRedis(where=where, problem=shown(error.what))
    return LiveRedis(where=where, settings=said)


def _file_systems(mounted: list[Mount], gaps: list[str]) -> Iterator[FileSystem]:
    seen = set()
    for mount in mounted:
        try:
            device = Path(mount.point).stat().st_dev
            usage = psutil.disk_usage(mount.point)
        except OSError as error:
            gaps.append(f"{shown(mount.point)}: {error.strerror}")
            continue
        if device in seen or not usage.total:  # bind mounts show a file system again
            continue
        seen.add(device)
        yield FileSystem(
            device=shown(mount.device),
            mount_point=shown(mount.point),
            kind=shown(mount.kind),
            size=usage.total,
            used=usage.used,
            available=usage.free,
        )


def _block_devices(mounted: list[Mount], gaps: list[str]) -> Iterator[BlockDevice]:
    try:
        disks = sorted(_SYS_BLOCK.iterdir())
    except OSError as error:
        gaps.append(f"{_SYS_BLOCK}: {error.strerror}")
        return
    for disk in disks:
        if size := _size(disk):
            yield _device(disk.name, "", size, mounted)
            for part in sorted(disk.iterdir()):
                if (part / "partition").exists():
                    yield _device(part.name, disk.name, _size(part), mounted)


def _device(name: str, parent: str, size: int, mounted: list[Mount]) -> BlockDevice:
    ours = [mount for mount in mounted if os.path.realpath(mount.device) == f"/dev/{name}"]
    return BlockDevice(
        name=shown(name),
        parent=shown(parent),
        size=size,
        kind=shown(ours[0].kind) if ours else "",
        mount_points=tuple(dict.fromkeys(shown(mount.point) for mount in ours)),
    )


def _size(device: Path) -> int:
    try:
        return int((device / "size").read_text()) * _SECTOR_BYTES
    except (OSError, ValueError):
        return 0
