"""Delivers the events of the outbox to Redis."""

from __future__ import annotations

import threading

import structlog

from retrain_worker.adapters.embedded_redis import EmbeddedRedis
from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.errors import RetrainError

log = structlog.get_logger()


class EventRelay:
    """Runs when something was stored, every second while events wait, and rarely to see whether Redis lost some."""

    def __init__(self, relay: Relay, embedded_redis: EmbeddedRedis | None) -> None:
        self._relay = relay
        self._embedded_redis = embedded_redis
        self._lock = threading.Lock()
        #: why events wait, one message; None while Redis accepts them
        self.problem: str | None = None
        #: whether every event is sent
        self.is_idle = False

    def run(self, *, at_once: bool = False) -> None:
        """Send what waits; a problem is logged when it begins and when it is over. `at_once` skips the back-off."""
        self.is_idle = False
        with self._lock:
            report = self._relay.relay_once(at_once=at_once)
            problem = report.problem
            self.is_idle = problem is None and not report.pending
            if problem and self._embedded_redis is not None:
                try:
                    self._embedded_redis.ensure()
                except RetrainError as error:
                    problem = str(error)
        for notice in report.notices:
            log.warning("redis_notice", message=notice)
        if problem == self.problem:
            return
        self.problem = problem
        if problem:
            log.warning("redis_problem", message=f"{problem}; {report.pending} events wait")
        else:
            log.info("redis_recovered", message=f"Redis accepts events again; {report.pending} wait")
