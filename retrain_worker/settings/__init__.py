"""The environment, read once into frozen values; one SettingsError names every problem."""

from retrain_worker.settings.credentials import CREDENTIAL_NAMES, credentials_in
from retrain_worker.settings.loading import Secret, Settings, load, reload_answer_path
from retrain_worker.settings.names import RENAMED, likely_misspellings, unknown_names

__all__ = [
    "CREDENTIAL_NAMES",
    "RENAMED",
    "Secret",
    "Settings",
    "credentials_in",
    "likely_misspellings",
    "load",
    "reload_answer_path",
    "unknown_names",
]
