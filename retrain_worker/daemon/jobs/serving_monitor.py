"""Counts the engine's own answers to the model in its slot, and reports a serving fault."""

from __future__ import annotations

import threading

import structlog

from retrain_worker.adapters.state_db import StateDb
from retrain_worker.adapters.trade_intents import TradeIntents
from retrain_worker.daemon.configuration import Configuration
from retrain_worker.daemon.serving_state import finding_of
from retrain_worker.domain.engine_answers import INTENT_STREAM
from retrain_worker.errors import SlotError
from retrain_worker.redis_client import RedisProblem

log = structlog.get_logger()


class ServingMonitor:
    """Runs every ten seconds."""

    def __init__(
        self, trade_intents: TradeIntents, store: StateDb, configuration: Configuration, *, lock: threading.RLock
    ) -> None:
        """`lock`: held while the slot may change."""
        self._trade_intents = trade_intents
        self._store = store
        self._configuration = configuration
        self._lock = lock
        self._problem: RedisProblem | None = None
        self._is_fault = False

    def run(self) -> None:
        """Read what the engine has answered since the last pass; a serving fault is logged at its begin and its end."""
        with self._lock:
            try:
                model = self._configuration.context.slot.current_path()
            except SlotError:
                return  # slot_watch.py reports it
            if model is None:
                return
            self._note(self._trade_intents.read(model_path=str(model), at=self._configuration.context.now()))
            found = finding_of(self._store, self._trade_intents.tally)
        if found.is_fault != self._is_fault:
            self._is_fault = found.is_fault
            if found.is_fault:
                log.warning("serving_fault", message=found.message, model_path=str(model))
            else:
                log.info("serving_fault_over", message=f"serving fault over: {found.message}", model_path=str(model))

    def _note(self, problem: RedisProblem | None) -> None:
        # what concerns all of Redis, the relay reports
        if problem is not None and problem.key == INTENT_STREAM and problem != self._problem:
            log.warning("serving_monitor_problem", message=f"trade intents cannot be read: {problem.message}")
        self._problem = problem
