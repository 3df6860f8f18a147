"""Settings that are secrets, read from files: one file each, named after the setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from retrain_worker.errors import SettingsError

CREDENTIALS_DIR = Path("/etc/quantum/retraining-worker.credentials")
#: settings whose value may be a secret, and may therefore come as a file
CREDENTIAL_NAMES = ("REDIS_PASSWORD", "REDIS_URL", "DATABASE_URL")
#: LoadCredential=settings:DIRECTORY names each file settings_NAME
_UNIT_PREFIX = "settings_"


def credentials_in(environment: Mapping[str, str], *, home: Path | None = None) -> dict[str, str]:
    """Settings in the files of $CREDENTIALS_DIRECTORY (LoadCredential=); they take precedence over the environment.

    Without that variable and without `home`, CREDENTIALS_DIR is read where this user may read it: by root, on the
    command line. Raises SettingsError.
    """
    given = environment.get("CREDENTIALS_DIRECTORY", "")
    directory = Path(given) if given else CREDENTIALS_DIR
    if (not given and home is not None) or not os.access(directory, os.R_OK | os.X_OK):
        return {}
    try:
        found = {
            path.name.removeprefix(_UNIT_PREFIX): path.read_text().strip()
            for path in sorted(directory.iterdir())
            if path.is_file()
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
