"""The jobs of METRICS_FILE, METRICS_PORT, NOTIFY_URLS and MLFLOW_TRACKING_URI; nothing else imports their libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec

from retrain_worker.daemon.job_schedule import Job
from retrain_worker.daemon.wiring import Components
from retrain_worker.errors import SettingsError, install_extra


@contextmanager
def monitoring_jobs(components: Components) -> Iterator[tuple[Job, ...]]:
    """The jobs; the server of METRICS_PORT answers while the context is open. Raises SettingsError."""
    settings = components.configuration.settings
    with ExitStack() as resources:
        jobs = []
        if settings.metrics_file or settings.metrics_port:
            jobs.append(_job(components, "metrics", _metrics(components, resources), every_seconds=15.0))
        if settings.notify_urls:
            jobs.append(_job(components, "notifications", _notifications(components), every_seconds=30.0))
        if settings.mlflow_tracking_uri:
            jobs.append(_job(components, "mlflow", _mlflow(components), every_seconds=30.0))
        yield tuple(jobs)


def _job(components: Components, name: str, action: Callable[[], None], *, every_seconds: float) -> Job:
    guarded = components.backoff.around(name, action)
    return Job(name=name, action=guarded, every_seconds=every_seconds, patience_seconds=120.0)


def _metrics(components: Components, resources: ExitStack) -> Callable[[], None]:
    from retrain_worker.daemon.jobs.metrics_export import MetricsExport, serve_metrics
    from retrain_worker.daemon.metrics import metrics_of

    settings = components.configuration.settings
    compute = partial(metrics_of, components.store, components.configuration, components.schedule)
    export = MetricsExport(compute, path=settings.metrics_file)
    if settings.metrics_port:
        resources.callback(serve_metrics(export.registry, port=settings.metrics_port))
    return export.run


def _notifications(components: Components) -> Callable[[], None]:
    try:
        from retrain_worker.daemon.jobs.notifications import Notifications, receivers_of
    except ImportError as error:
        raise SettingsError((f"NOTIFY_URLS needs the extra notify ({error})",)) from None
    settings = components.configuration.settings
    return Notifications(
        components.store,
        components.run_folders,
        receivers=receivers_of(settings.notify_urls),
        outcomes=settings.notify_on,
    ).run


def _mlflow(components: Components) -> Callable[[], None]:
    from retrain_worker.daemon.jobs.mlflow_log import MlflowLog

    if find_spec("mlflow") is None:  # only a worker imports it
        raise SettingsError((f"MLFLOW_TRACKING_URI needs the extra mlflow ({install_extra('mlflow')})",))
    return MlflowLog(
        components.store,
        components.run_folders,
        tracking_uri=components.configuration.settings.mlflow_tracking_uri,
        is_stopping=lambda: components.driver.is_stopping,
    ).run
