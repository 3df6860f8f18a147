"""The one rule for an exception that nothing expects while a run or a slot request is advanced.

It is logged with its place and charged to what was being advanced, so a defect of this program ends one run or one slot
request after a bounded number of attempts and stops no job. An error of the state database concerns every run: it
passes, and job_backoff.py handles it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from retrain_worker.errors import RetryLaterError, StateError

log = structlog.get_logger()

Result = TypeVar("Result")
_REASON = "unexpected error; see the log"


def charged(subject: str, advance: Callable[[], Result], *, charge: Callable[[str], Result]) -> Result:
    """What `advance` returns; what `charge` makes of the reason where `advance` raises an unexpected exception."""
    try:
        return advance()
    except (StateError, RetryLaterError):
        raise
    except Exception as error:
        log.exception("unexpected_error", message=f"{subject}: unexpected {type(error).__name__}: {error}")
        return charge(_REASON)
