"""Variables that make a program load other code: those that root has set for the engine are kept, others removed.

The service's user may replace the engine's env file. A drop-in of root therefore removes these variables, and a second
env file, which systemd reads last, sets the values that root had given before that user got access.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from retrain_worker.adapters import service_unit
from retrain_worker.domain import env_file

_UNITS = Path("/etc/systemd/system")
#: of services of the system manager, where nothing sets PATH
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: of the loader and the C library (most of those that they ignore in set-uid programs), of Python, shells, OpenSSL,
#: proxies, uvicorn, and libraries below PyTorch
_NAMES = """
LD_AUDIT LD_BIND_NOT LD_BIND_NOW LD_DEBUG LD_DEBUG_OUTPUT LD_DYNAMIC_WEAK LD_LIBRARY_PATH LD_ORIGIN_PATH LD_PRELOAD
LD_PREFER_MAP_32BIT_EXEC LD_PROFILE LD_PROFILE_OUTPUT LD_SHOW_AUXV LD_VERBOSE LD_WARN GCONV_PATH GETCONF_DIR
GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN LOCPATH MALLOC_TRACE NIS_PATH NLSPATH RESOLV_HOST_CONF RES_OPTIONS
PYTHONBREAKPOINT PYTHONCASEOK PYTHONEXECUTABLE PYTHONHOME PYTHONINSPECT PYTHONPATH PYTHONPLATLIBDIR PYTHONPYCACHEPREFIX
PYTHONSTARTUP PYTHONUSERBASE PYTHONWARNINGS PYTHON_PRESITE
PATH BASH_ENV SHELLOPTS PERL5LIB PERL5OPT PERLLIB NODE_OPTIONS GIT_EXEC_PATH GIT_SSH_COMMAND
OPENSSL_CONF OPENSSL_CONF_INCLUDE OPENSSL_ENGINES OPENSSL_MODULES SSL_CERT_DIR SSL_CERT_FILE SSLKEYLOGFILE
REQUESTS_CA_BUNDLE CURL_CA_BUNDLE KRB5_CONFIG SASL_PATH
HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
UVICORN_APP UVICORN_APP_DIR UVICORN_ENV_FILE UVICORN_LOG_CONFIG GUNICORN_CMD_ARGS
OMP_TOOL_LIBRARIES CUDA_INJECTION64_PATH NVTX_INJECTION64_PATH NCCL_NET_PLUGIN NCCL_TUNER_PLUGIN
TORCH_EXTENSIONS_DIR TORCH_HOME TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR
"""
LOADER_NAMES = frozenset(_NAMES.split())


def drop_in(unit: str) -> Path:
    """The drop-in of the engine's unit."""
    return _UNITS / f"{unit}.d/retraining-worker.conf"


def kept_file(unit: str) -> Path:
    """The env file with the values that root has set."""
    return drop_in(unit).with_suffix(".env")


def kept_values(unit: str) -> dict[str, str]:
    """What `kept_file` sets; empty where there is none. Raises SlotError, OSError."""
    try:
        return env_file.parse(kept_file(unit).read_bytes())
    except FileNotFoundError:
        return {}


def refused_names(unit: str, engine_env_file: Path) -> list[str]:
    """Names of LOADER_NAMES that the env file sets to another value than root has. Raises SlotError, OSError."""
    kept = kept_values(unit)
    found = env_file.parse(engine_env_file.read_bytes())
    return sorted(name for name in LOADER_NAMES & set(found) if found[name] != kept.get(name))


def values_of_root(unit: str, engine_env_file: Path) -> dict[str, str]:
    """The variables of LOADER_NAMES that root sets for the engine: in its unit, or in env files that only root writes.

    Raises SlotError, OSError.
    """
    found = service_unit.environment(unit)
    for path in service_unit.env_files(unit) or [engine_env_file]:
        if path.is_file() and is_written_by_root_only(path):
            found |= env_file.parse(path.read_bytes())
    kept = {"PATH": _DEFAULT_PATH, **found, **kept_values(unit)}
    return {name: value for name, value in kept.items() if name in LOADER_NAMES}


def is_written_by_root_only(path: Path) -> bool:
    """Whether root owns the file and its mode lets no other user write; the mask of a list counts as the group."""
    found = path.stat()
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def texts(unit: str, kept: Mapping[str, str]) -> dict[Path, str]:
    """The drop-in and its env file."""
    removed = " ".join(sorted(LOADER_NAMES - set(kept)))
    values = "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(kept.items()))
    head = "# Written by `retrain-worker access grant`: the retraining worker may replace the env file of the engine."
    return {
        kept_file(unit): f"{head}\n# Read last: what root had set before. Change these variables here.\n{values}",
        drop_in(unit): f"{head}\n# Variables that load other code are removed, but for those of the file below.\n"
        f"[Service]\nEnvironmentFile={kept_file(unit)}\nUnsetEnvironment={removed}\n",
    }


def _quoted(value: str) -> str:
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'
