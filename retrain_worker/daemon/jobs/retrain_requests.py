"""Reads retrain requests from Redis: each starts a run, or joins the current run, or queues one more run after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from retrain_worker.adapters.retrain_requests import Poll, Request, Requests
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.daemon import queued_request
from retrain_worker.domain.events import REQUEST_STREAM
from retrain_worker.domain.lifecycle import Requester, Run
from retrain_worker.redis_client import RedisProblem

log = structlog.get_logger()

#: polls of one pass; the rest of a flood waits for the next
_MAX_POLLS = 100
#: key of the ids of the newest stored requests: after a failover, Redis may deliver them again
_STORED = "requests/stored"
_NUM_STORED = 1000


class RetrainRequests:
    """Acknowledges a request after it is stored, so that none is lost in a crash."""

    def __init__(
        self,
        requests: Requests,
        store: StateDb,
        *,
        begin_run: Callable[..., Run],
        is_held: Callable[[], bool],
        is_stopping: Callable[[], bool],
        lock: threading.RLock,
    ) -> None:
        """`begin_run`: RunDriver.begin; `is_held`: a pause holds requested runs; `lock`: held while a run may move."""
        self._requests = requests
        self._store = store
        self._begin_run = begin_run
        self._is_held = is_held
        self._is_stopping = is_stopping
        self._lock = lock
        self._problem: RedisProblem | None = None
        self._arrival_problem: RedisProblem | None = None
        #: whether the last poll has read all that there was
        self.is_idle = False

    def run(self) -> None:
        """Read and store every pending request.

        A flood is read to its end while no run moves: read over several passes, it would begin a run after each one
        that ends at once.
        """
        self.is_idle = False
        found = self._poll()
        if not found.requests:
            self.is_idle = found.problem is None and not found.is_full
            return
        with self._lock:
            if self._is_stopping():
                return
            first = found.requests[0]
            self._store_request(first, is_forced=any(request.is_forced for request in found.requests))
            for _ in range(_MAX_POLLS):
                self._remember(found)
                problem = self._requests.acknowledge(request.stream_id for request in found.requests)
                if problem is not None or not found.is_full:
                    return
                found = self._poll()

    def note_loss(self, problem: RedisProblem) -> None:
        """Report, once, why a new request does not wake this job. What concerns all of Redis, the relay reports."""
        if problem.key and problem != self._arrival_problem:
            log.warning("requests_problem", message=f"retrain requests are noticed late: {problem.message}")
        self._arrival_problem = problem

    def _store_request(self, wanted: Request, *, is_forced: bool) -> None:
        current, newest = self._store.unfinished_run(), self._store.history(limit=1)
        why = f"{wanted.requested_by}: {wanted.reason}"
        request = f'{wanted.requested_by}: "{wanted.reason}"'
        if current is None and not self._is_held():
            self._begin_run(Requester.TRIGGER, why, is_forced=is_forced)
        elif current is not None and not is_forced and not queued_request.comes_too_late(current):
            log.info(
                "request_joined",
                message=f"retrain request joined run {current.run_id}, which has not read its rows yet ({request})",
                run_id=current.run_id,
            )
        elif not newest:
            log.info("request_joined", message=f"retrain request joined the first run, after the pause ({request})")
        elif queued_request.note(self._store, newest[0], why, is_forced=is_forced):
            until = f"run {current.run_id} has finished" if current else "the pause has ended"
            log.info(
                "request_queued",
                message=f"retrain request queued ({request}); it starts when {until}",
                run_id=newest[0].run_id,
            )

    def _poll(self) -> Poll:
        found = self._requests.poll()
        for dead_letter in found.dead_letters:
            log.warning(
                "request_dead_lettered",
                message=f"retrain request {dead_letter.stream_id} dead-lettered: {dead_letter.reason}",
            )
        for model in found.other_models:
            log.debug("request_ignored", message=f"retrain request ignored: it is for model {model}")
        found = self._without_stored(found)
        # what concerns all of Redis, the relay reports
        problem = found.problem if found.problem is not None and found.problem.key == REQUEST_STREAM else None
        if problem is not None and problem != self._problem:
            log.warning("requests_problem", message=f"retrain requests cannot be read: {problem.message}")
        self._problem = problem
        return found

    def _without_stored(self, found: Poll) -> Poll:
        """Without requests that are stored; they are acknowledged again."""
        stored = set(self._stored_ids()) if found.requests else set()
        again = [request.stream_id for request in found.requests if request.stream_id in stored]
        if not again:
            return found
        log.debug("request_ignored", message=f"{len(again)} retrain requests ignored: they are stored already")
        self._requests.acknowledge(again)
        return replace(found, requests=tuple(each for each in found.requests if each.stream_id not in stored))

    def _remember(self, found: Poll) -> None:
        ids = [*self._stored_ids(), *(request.stream_id for request in found.requests)]
        self._store.remember(_STORED, ids[-_NUM_STORED:])

    def _stored_ids(self) -> list[str]:
        return self._store.recall(_STORED, list[str]) or []
