"""Sends the outcome of each run to NOTIFY_URLS through Apprise: mail, chat, pagers, web hooks."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection

import apprise
import structlog

from retrain_worker.adapters.artifact_store import ArtifactStore
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon.jobs.new_outcomes import NewOutcomes
from retrain_worker.domain.lifecycle import Outcome, Run
from retrain_worker.errors import SettingsError
from retrain_worker.report.overview import overview
from retrain_worker.report.result import RunResult

log = structlog.get_logger()

#: passes after which a receiver that fails is given up for one outcome
_MAX_ATTEMPTS = 10
_TYPES: dict[Outcome | None, apprise.NotifyType] = {
    Outcome.PROMOTED: apprise.NotifyType.SUCCESS,
    Outcome.SKIPPED: apprise.NotifyType.INFO,
    Outcome.REFUSED: apprise.NotifyType.WARNING,
}


def receivers_of(urls: str) -> tuple[apprise.NotifyBase, ...]:
    """The receivers that `urls`, separated by blanks, name. Raises SettingsError, which shows no URL."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages show URLs
    found = [apprise.Apprise.instantiate(url, suppress_exceptions=True) for url in urls.split()]
    unknown = [str(place) for place, receiver in enumerate(found, start=1) if receiver is None]
    if unknown:
        raise SettingsError((f"NOTIFY_URLS: Apprise cannot read number {', '.join(unknown)} of {len(found)} URLs",))
    return tuple(receiver for receiver in found if receiver is not None)


class Notifications:
    """Runs every thirty seconds."""

    def __init__(
        self,
        store: StateDb,
        folders: ArtifactStore,
        *,
        receivers: Collection[apprise.NotifyBase],
        outcomes: Collection[Outcome],
    ) -> None:
        """`outcomes`: those that are sent."""
        self._new = NewOutcomes(store, "notified")
        self._folders = folders
        self._receivers = receivers
        self._outcomes = outcomes
        #: of the outcome that is being sent: passes so far, and the receivers that have it
        self._num_attempts = 0
        self._received: set[str] = set()

    def run(self) -> None:
        """Send the oldest outcome that was not sent. A receiver that did not take it is served at the next pass."""
        run = self._new.oldest()
        if run is not None and self._is_over(run):
            self._new.done(run)
            self._num_attempts, self._received = 0, set()

    def _is_over(self, run: Run) -> bool:
        """Send the outcome of a run to each receiver that does not have it; whether nothing is left to do."""
        if run.outcome not in self._outcomes:
            return True
        seen = overview(RunResult(run=run, report=self._folders.report_of(run.run_id)))
        title = f"retrain_worker on {socket.gethostname()}: {seen.outcome}"
        body = "\n".join((seen.message, *seen.reasons, *([f"Next: {seen.next_step}"] if seen.next_step else [])))
        self._num_attempts += 1
        for receiver in self._receivers:
            name = str(receiver.url(privacy=True)).partition("?")[0]
            if name not in self._received and receiver.notify(
                title=title, body=body, notify_type=_TYPES.get(run.outcome, apprise.NotifyType.FAILURE)
            ):
                self._received.add(name)
            elif name not in self._received and self._num_attempts in (1, _MAX_ATTEMPTS):
                will = "retrying" if self._num_attempts < _MAX_ATTEMPTS else "no further attempt for this outcome"
                message = f"run {run.run_id} {run.outcome}: {name} did not accept the notification; {will}"
                log.warning("notification_not_sent", message=message, run_id=run.run_id)
        return len(self._received) == len(self._receivers) or self._num_attempts == _MAX_ATTEMPTS
