"""The environment, read once into frozen values; one SettingsError names every problem."""

from retrain_worker.settings.credentials import CREDENTIAL_NAMES, credentials_in
from retrain_worker.settings.loading import ENV_FILE, Secret, Settings, load, reload_answer_path
from retrain_worker.settings.names import likely_misspellings, unknown_names

__all__ = [
    "CREDENTIAL_NAMES",
    "ENV_FILE",
    "Secret",
    "Settings",
    "credentials_in",
    "likely_misspellings",
    "load",
    "reload_answer_path",
    "unknown_names",
]
