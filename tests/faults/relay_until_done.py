"""Drain an outbox into a Redis until nothing waits: the process that a test kills.

python -m tests.faults.relay_until_done STATE_DB REDIS_URL
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from retrain_worker.adapters.outbox_relay import Relay
from retrain_worker.adapters.state_db import StateDb
from retrain_worker.redis_client import connect


def main(state_db: str, redis_url: str) -> None:
    with StateDb(Path(state_db)) as outbox:
        relay = Relay(connect(redis_url), outbox, lambda: datetime.now(UTC))
        while relay.relay_once(at_once=True).pending:
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
