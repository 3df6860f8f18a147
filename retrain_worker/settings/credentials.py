"""Settings that are secrets, read from files: one file each, named after the setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from retrain_worker.domain.host_names import HostNames
from retrain_worker.errors import SettingsError

#: settings whose value may be a secret, and may therefore come as a file
CREDENTIAL_NAMES = (
    "REDIS_PASSWORD",
    "REDIS_URL",
    "REDIS_KEY",
    "DATABASE_URL",
    "STATE_URL",
    "NOTIFY_URLS",
    "MLFLOW_TRACKING_URI",
    "SIGNING_KEY",
    "MODELS_CREDENTIALS",
)
#: the value of the setting is the path of the file
_FILES = ("REDIS_KEY",)
#: LoadCredential=settings:DIRECTORY names each file settings_NAME
_UNIT_PREFIX = "settings_"


def credentials_in(
    environment: Mapping[str, str], *, home: Path | None = None, host_names: HostNames | None = None
) -> dict[str, str]:
    """Settings in the files of $CREDENTIALS_DIRECTORY (LoadCredential=); they take precedence over the environment.

    Without that variable and without `home`, the directory of `host_names` is read where this user may read it: by
    root, on the command line. Raises SettingsError.
    """
    given = environment.get("CREDENTIALS_DIRECTORY", "")
    directory = Path(given) if given else (host_names or HostNames()).credentials
    if (not given and home is not None) or not os.access(directory, os.R_OK | os.X_OK):
        return {}
    try:
        found = {
            name: str(path) if name in _FILES else path.read_text().strip()
            for path in sorted(directory.iterdir())
            if path.is_file() and (name := path.name.removeprefix(_UNIT_PREFIX))
        }
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError((f"cannot read a credential in {directory}: {error}",)) from None
    unknown = tuple(
        f"{directory}/{name} is not one of {', '.join(CREDENTIAL_NAMES)}; rename or remove the file"
        for name in found
        if name not in CREDENTIAL_NAMES
    )
    if unknown:
        raise SettingsError(unknown)
    return found
