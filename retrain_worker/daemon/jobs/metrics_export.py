"""Publishes the metrics: METRICS_FILE for a node exporter, and METRICS_PORT on the loopback interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server, write_to_textfile

log = structlog.get_logger()

_LOOPBACK = "127.0.0.1"


class MetricsExport:
    """Runs every fifteen seconds; a request over HTTP gets what the last pass has computed."""

    def __init__(self, compute: Callable[[], Iterable[Metric]], *, path: Path | None) -> None:
        """`path`: replaced at each pass; None: no file."""
        self._compute = compute
        self._path = path
        self._last: tuple[Metric, ...] = ()
        self._problem = ""
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(namespace="retrain_worker", registry=self.registry)

    def run(self) -> None:
        """Compute every metric, and write the file. A file that cannot be written is one warning."""
        self._last = tuple(self._compute())
        problem = ""
        if self._path is not None:
            try:
                write_to_textfile(str(self._path), self.registry)
            except OSError as error:
                problem = f"METRICS_FILE cannot be written: {error}"
        if problem and problem != self._problem:
            log.warning("metrics_not_published", message=problem)
        self._problem = problem

    def collect(self) -> Iterator[Metric]:
        """The metrics of the last pass."""
        yield from self._last


def serve_metrics(registry: CollectorRegistry, *, port: int) -> Callable[[], None]:
    """Answer `GET /metrics` on 127.0.0.1 until the returned function is called. A port in use is a warning."""
    try:
        server, thread = start_http_server(port, addr=_LOOPBACK, registry=registry)
    except OSError as error:
        message = f"METRICS_PORT: {_LOOPBACK}:{port} cannot be used: {error.strerror}"
        log.warning("metrics_not_published", message=message)
        return lambda: None

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close
