"""The signing key and the verification keys that the settings name."""

from __future__ import annotations

import stat

from retrain_worker import durable_file
from retrain_worker.errors import SettingsError
from retrain_worker.settings import Settings
from retrain_worker.signing import Signer, Verifier

_MAX_KEY_BYTES = 1024


def signer_of(settings: Settings) -> Signer | None:
    """The key of SIGNING_KEY, a credential, or SIGNING_KEY_FILE; None without one. Raises SettingsError."""
    if settings.signing_key:
        return Signer(str(settings.signing_key))
    path = settings.signing_key_file
    if path is None:
        return None
    try:
        with durable_file.opened_regular(path, _MAX_KEY_BYTES, follow_links=True) as fd:
            mode = stat.S_IMODE(durable_file.metadata_of(fd).mode)
            text = durable_file.read_all(fd, _MAX_KEY_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError((f"SIGNING_KEY_FILE: {path} cannot be read: {error}",)) from None
    if mode & 0o077:
        raise SettingsError((f"SIGNING_KEY_FILE: others may read {path} (mode {mode:04o}); chmod 600",))
    return Signer(text)


def verifier_of(settings: Settings, signer: Signer | None = None) -> Verifier | None:
    """Verifies with MODEL_PUBLIC_KEYS, else with the signing key; None without any. Raises SettingsError."""
    keys = settings.model_public_keys or ((signer.public_key,) if signer else ())
    return Verifier(keys) if keys else None


def required_verifier(settings: Settings, signer: Signer | None = None) -> Verifier | None:
    """What SIGNED_MODELS=required verifies with; None where it is off. Raises SettingsError where no key is known."""
    if not settings.are_signed_models_required:
        return None
    verifier = verifier_of(settings, signer)
    if verifier is None:
        raise SettingsError(("SIGNED_MODELS=required, but MODEL_PUBLIC_KEYS names no key",))
    return verifier
