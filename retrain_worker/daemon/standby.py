"""The daemon while another process leads: it is ready, reports who leads, and tries to take the lead itself.

It reads no rows and no requests, changes nothing, and publishes nothing. A reload takes effect when it leads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import structlog

from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon.signals import Signals
from retrain_worker.daemon.status import note_activity
from retrain_worker.settings import Settings

log = structlog.get_logger()

#: between two tries: a leader that was killed is followed within this
_TRY_SECONDS = 2.0


class StoppedError(Exception):
    """A signal has ended the process before it led."""


@contextlib.contextmanager
def standby(
    settings: Settings, *, signals: Signals, notifier: Notifier
) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """`wait` of leadership.opened_state, which publishes metrics, and what ends that: the leader takes their port."""
    with contextlib.ExitStack() as resources:
        publish: list[Callable[[], None]] = []
        last = ""

        def wait(why: str) -> None:
            nonlocal last
            if not publish:
                publish.append(_metrics(settings, resources))
            line = f"standby; {why}"
            if line != last:
                last = line
                log.info("standby", message=line)
                notifier.ready(line)
                with contextlib.suppress(OSError):
                    note_activity(settings.state_path, line)
            notifier.watchdog()
            publish[0]()
            signals.wait(min(_TRY_SECONDS, notifier.watchdog_interval_seconds or _TRY_SECONDS))
            if signals.stopping:
                raise StoppedError

        yield wait, resources.close


def _metrics(settings: Settings, resources: contextlib.ExitStack) -> Callable[[], None]:
    if not (settings.metrics_file or settings.metrics_port):
        return lambda: None
    from retrain_worker.daemon.jobs.metrics_export import MetricsExport, serve_metrics
    from retrain_worker.daemon.metrics import leader_metric

    export = MetricsExport(lambda: [leader_metric(is_leader=False)], path=settings.metrics_file)
    if settings.metrics_port:
        resources.callback(serve_metrics(export.registry, port=settings.metrics_port))
    return export.run
