"""Variables that make a program load other code: those that root has set for the engine are kept, others removed.

The service's user may replace the engine's env file. A drop-in of root therefore removes these variables, and a second
env file, which systemd reads last, sets the values that root had given before that user got access. systemd cannot
remove all but some names, and other programs add settings to the env file: so the dangerous names are listed.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from retrain_worker import durable_file
from retrain_worker.adapters import service_unit
from retrain_worker.domain import env_file
from retrain_worker.errors import SlotError

_UNITS = Path("/etc/systemd/system")
#: of services of the system manager, where nothing sets PATH
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: of the loader and the C library (most of those that they ignore in set-uid programs), of Python, shells and other
#: interpreters, of what a program starts or loads from a folder of the environment's choice, of TLS and proxies, of
#: servers and libraries of Python, of PyTorch and the libraries below it
_NAMES = """
LD_AUDIT LD_BIND_NOT LD_BIND_NOW LD_DEBUG LD_DEBUG_OUTPUT LD_DYNAMIC_WEAK LD_HWCAP_MASK LD_LIBRARY_PATH LD_ORIGIN_PATH
LD_PRELOAD LD_PREFER_MAP_32BIT_EXEC LD_PROFILE LD_PROFILE_OUTPUT LD_SHOW_AUXV LD_USE_LOAD_BIAS LD_VERBOSE LD_WARN
GCONV_PATH GETCONF_DIR GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN LOCPATH MALLOC_TRACE NIS_PATH NLSPATH RESOLV_HOST_CONF
RES_OPTIONS TMPDIR TEMP TMP TZDIR
PYTHONBREAKPOINT PYTHONCASEOK PYTHONDUMPREFS PYTHONDUMPREFSFILE PYTHONEXECUTABLE PYTHONHOME PYTHONINSPECT
PYTHONPATH PYTHONPERFSUPPORT PYTHONPLATLIBDIR PYTHONPYCACHEPREFIX PYTHONSTARTUP PYTHONUSERBASE
PYTHONWARNINGS PYTHON_HISTORY PYTHON_PERF_JIT_SUPPORT PYTHON_PRESITE
COVERAGE_PROCESS_CONFIG COVERAGE_PROCESS_START PYTEST_ADDOPTS PYTEST_PLUGINS
PATH HOME SHELL ENV BASH_ENV SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND ZDOTDIR IFS CDPATH
PERL5DB PERL5LIB PERL5OPT PERLLIB RUBYLIB RUBYOPT NODE_OPTIONS NODE_PATH CLASSPATH JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS
_JAVA_OPTIONS LUA_INIT LUA_PATH LUA_CPATH PHPRC PHP_INI_SCAN_DIR TCLLIBPATH R_PROFILE R_PROFILE_USER R_ENVIRON
EDITOR VISUAL PAGER BROWSER MANPAGER LESSOPEN LESSCLOSE SYSTEMD_PAGER SYSTEMD_EDITOR
GIT_EXEC_PATH GIT_SSH GIT_SSH_COMMAND GIT_PAGER GIT_EDITOR GIT_ASKPASS GIT_EXTERNAL_DIFF GIT_PROXY_COMMAND
GIT_TEMPLATE_DIR GIT_CONFIG GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM GIT_CONFIG_COUNT GIT_CONFIG_PARAMETERS SSH_ASKPASS
CC CXX CPP LDSHARED AR
XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_DATA_HOME XDG_DATA_DIRS XDG_CACHE_HOME XDG_STATE_HOME XDG_RUNTIME_DIR
GIO_MODULE_DIR GIO_EXTRA_MODULES GST_PLUGIN_PATH GTK_MODULES GTK_PATH QT_PLUGIN_PATH TERMINFO TERMINFO_DIRS TERMCAP
OPENSSL_CONF OPENSSL_CONF_INCLUDE OPENSSL_ENGINES OPENSSL_MODULES SSL_CERT_DIR SSL_CERT_FILE SSLKEYLOGFILE CTLOG_FILE
REQUESTS_CA_BUNDLE CURL_CA_BUNDLE AWS_CA_BUNDLE GRPC_DEFAULT_SSL_ROOTS_FILE_PATH CURL_HOME NETRC KRB5_CONFIG SASL_PATH
SASL_CONF_PATH
HTTP_PROXY HTTPS_PROXY ALL_PROXY FTP_PROXY http_proxy https_proxy all_proxy ftp_proxy
UVICORN_APP UVICORN_APP_DIR UVICORN_ENV_FILE UVICORN_FACTORY UVICORN_LOG_CONFIG UVICORN_LOOP UVICORN_HTTP UVICORN_WS
UVICORN_INTERFACE UVICORN_RELOAD_DIRS GUNICORN_CMD_ARGS DJANGO_SETTINGS_MODULE FLASK_APP CELERY_CONFIG_MODULE
CELERY_LOADER MPLBACKEND MPLCONFIGDIR MATPLOTLIBRC NUMBA_CACHE_DIR JOBLIB_TEMP_FOLDER HF_HOME HF_MODULES_CACHE
TRANSFORMERS_CACHE
OMP_TOOL OMP_TOOL_LIBRARIES OMP_TOOL_VERBOSE_INIT CUDA_INJECTION32_PATH CUDA_INJECTION64_PATH NVTX_INJECTION32_PATH
NVTX_INJECTION64_PATH CUDA_CACHE_PATH CUDA_HOME CUDA_PATH NCCL_NET_PLUGIN NCCL_TUNER_PLUGIN NCCL_PROFILER_PLUGIN
NCCL_CONF_FILE UCX_MODULE_DIR HWLOC_PLUGINS_PATH OCL_ICD_VENDORS OCL_ICD_FILENAMES OPENCL_VENDOR_PATH VK_ICD_FILENAMES
VK_LAYER_PATH LIBGL_DRIVERS_PATH KMP_DEVICE_LIBRARIES
TORCH_DEVICE_BACKEND_AUTOLOAD TORCH_EXTENSIONS_DIR TORCH_HOME TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_CPP_CXX
PYTORCH_KERNEL_CACHE_PATH PYTORCH_NVRTC TRITON_CACHE_DIR TRITON_HOME TRITON_LIBCUDA_PATH TRITON_PTXAS_PATH
TRITON_PASS_PLUGIN_PATH TRITON_PLUGIN_PATHS
"""
LOADER_NAMES = frozenset(_NAMES.split())


def drop_in(unit: str) -> Path:
    """The drop-in of the engine's unit."""
    return _UNITS / f"{unit}.d/retraining-worker.conf"


def kept_file(unit: str) -> Path:
    """The env file with the values that root has set."""
    return drop_in(unit).with_suffix(".env")


def kept_values(unit: str) -> dict[str, str]:
    """What `kept_file` sets; empty where there is none. Raises SlotError."""
    try:
        return _values_in(kept_file(unit))
    except FileNotFoundError:
        return {}


def refused_names(unit: str, engine_env_file: Path) -> list[str]:
    """Names of LOADER_NAMES that the env file sets to another value than root. Raises SlotError, FileNotFoundError."""
    kept = kept_values(unit)
    found = _values_in(engine_env_file)
    return sorted(name for name in LOADER_NAMES & set(found) if found[name] != kept.get(name))


def values_of_root(unit: str, engine_env_file: Path) -> dict[str, str]:
    """The variables of LOADER_NAMES that root sets for the engine: in its unit, or in env files that only root writes.

    Raises SlotError.
    """
    found = service_unit.environment(unit)
    for path in service_unit.env_files(unit) or [engine_env_file]:
        found |= _root_values_in(path)
    kept = {"PATH": _DEFAULT_PATH, **_login_values(unit), **found, **kept_values(unit)}
    return {name: value for name, value in kept.items() if name in LOADER_NAMES}


def _login_values(unit: str) -> dict[str, str]:
    """What systemd sets for a unit with User=."""
    try:
        user = pwd.getpwnam(service_unit.shown(unit, "User").get("User", ""))
    except KeyError:
        return {}
    return {"HOME": user.pw_dir, "SHELL": user.pw_shell}


def _root_values_in(path: Path) -> dict[str, str]:
    """The variables in an env file that only root writes; none in another one, or where there is none."""
    try:
        is_link_of_root = path.lstat().st_uid == 0
        with durable_file.opened_regular(path, env_file.MAX_BYTES, follow_links=is_link_of_root) as fd:
            found = durable_file.read_all(fd, env_file.MAX_BYTES) if _is_of_root(os.fstat(fd)) else b""
    except OSError:
        return {}
    return env_file.parse(found)


def _values_in(path: Path) -> dict[str, str]:
    """The variables in a file that the service's user may have replaced. Raises SlotError, FileNotFoundError."""
    try:
        return env_file.parse(durable_file.read_regular(path, env_file.MAX_BYTES, follow_links=False))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise not_a_regular_file(path, error) from error


def not_a_regular_file(path: Path, error: OSError) -> SlotError:
    """Why a file of the service's user, who may put anything there, is not read: links, devices, pipes, large files."""
    return SlotError(
        f"cannot be read as a regular file ({error.strerror})",
        where=str(path),
        remedy="check which process has put it there",
    )


def is_written_by_root_only(path: Path) -> bool:
    """Whether root owns the file and its mode lets no other user write; the mask of a list counts as the group."""
    return _is_of_root(path.stat())


def _is_of_root(found: os.stat_result) -> bool:
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
