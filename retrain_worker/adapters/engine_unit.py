"""Whether the engine's unit was started after the swap: confirmation by systemd, without a follower."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

_PROPERTIES = "LoadState,ActiveState,ExecMainStartTimestamp"


class UnitConfirmations:
    """Implements ports.Confirmations for ENGINE_CONFIRM=unit.

    The engine reads PATCHTST_MODEL_PATH once, at its start: a unit that is active and was started after the env line
    was replaced has the new path. Only a follower can confirm that the file was loaded.
    """

    def __init__(self, unit: str) -> None:
        """`unit`: the engine's service unit."""
        self._unit = unit

    def is_loaded(self) -> bool:
        """Whether systemd has this unit."""
        return self._show().get("LoadState") == "loaded"

    def seen_serving(self, *, version: str, sha256: str, model_path: str, since: datetime) -> str | None:
        """A message when the unit is active and was started after `since`; None otherwise, also when systemctl fails.

        `since`: an instant at which the env line already named the model.
        """
        shown = self._show()
        started_at = _instant(shown.get("ExecMainStartTimestamp", ""))
        if shown.get("ActiveState") != "active" or started_at is None or started_at < since:
            return None
        return f"{self._unit} was started at {started_at:%H:%M:%S} UTC with PATCHTST_MODEL_PATH naming {version}"

    def _show(self) -> dict[str, str]:
        command = ["systemctl", "show", "--timestamp=us+utc", "-p", _PROPERTIES, self._unit]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return {}
        return dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)


def _instant(shown: str) -> datetime | None:
    """`Fri 2026-11-27 15:53:22.651015 UTC`; None where there is none, as for a unit that was never started."""
    try:
        _weekday, day, time, _utc = shown.split()
        return datetime.fromisoformat(f"{day} {time}").replace(tzinfo=UTC)
    except ValueError:
        return None
