"""The daemon while another process leads: it is ready, reports who leads, and tries to take the lead itself.

It reads no rows and no requests, changes nothing, and publishes nothing. A reload is checked at once, and takes effect
when it leads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from retrain_worker.adapters.systemd import Notifier
from retrain_worker.daemon.settings_reload import reload_settings, store_result
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
    settings: Settings,
    *,
    signals: Signals,
    notifier: Notifier,
    read_settings: Callable[[], Settings],
    result_path: Path,
) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """`wait` of leadership.opened_state, which publishes metrics, and what ends that: the leader takes their port.

    `read_settings`, `result_path`: as those of service.serve.
    """
    with contextlib.ExitStack() as resources:
        publish: list[Callable[[], None]] = []
        last, accepted = "", settings

        def wait(why: str) -> None:
            nonlocal last, accepted
            line = f"standby; {why}"
            if not publish:
                publish.append(_metrics(settings, resources))
                store_result(accepted, result_path, began_at_ns=time.monotonic_ns())
            if signals.reloading:
                signals.reloading = False
                accepted = reload_settings(
                    accepted,
                    read_settings=read_settings,
                    accept=lambda _: None,
                    effect="they take effect when this process leads",
                    notifier=notifier,
                    status=lambda: line,
                    result_path=result_path,
                )
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

        def end() -> None:
            resources.close()
            if accepted is not settings:
                signals.reloading = True  # the leader begins with the settings of the start

        yield wait, end


def _metrics(settings: Settings, resources: contextlib.ExitStack) -> Callable[[], None]:
    if not (settings.metrics_file or settings.metrics_port):
        return lambda: None
    from retrain_worker.daemon.jobs.metrics_export import MetricsExport, serve_metrics
    from retrain_worker.daemon.metrics import leader_metric

    export = MetricsExport(lambda: [leader_metric(is_leader=False)], path=settings.metrics_file)
    if settings.metrics_port:
        resources.callback(serve_metrics(export.registry, port=settings.metrics_port))
    return export.run
