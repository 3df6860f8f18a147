"""The same as consumer.py with asyncio: an awaitable handler, and SIGTERM through the event loop."""

import asyncio
import os
import signal
import socket
from pathlib import Path

from retrain_worker.serving import AsyncModelEvents, ModelEvent


async def handle(event: ModelEvent) -> None:
    """Be idempotent: after a crash before the acknowledgement, the event comes again."""
    match event.event_type:
        case "model.promoted":
            model, auc = event.payload, event.payload["auc"]
            skill = "not measured" if auc is None else f"{auc:.3f}"
            print(f"{model['new_version']} replaces {model['old_version'] or 'no model'}, AUC {skill}", flush=True)
        case "model.rolled_back":
            print(f"{event.payload['new_version']} returned: {event.payload['reason']}", flush=True)
        case "learning.retraining.completed" | "learning.retraining.failed" | "learning.retraining.skipped":
            print(event.event_type, *event.payload["reasons"][:1], flush=True)
        case other:
            print(other, flush=True)


async def main() -> None:
    """Handle events until SIGTERM."""
    async with AsyncModelEvents(
        os.environ.get("REDIS_URL", "redis://localhost:6379"),
        group="my_service",
        consumer=os.environ.get("CONSUMER", socket.gethostname()),
        reclaim_after_seconds=float(os.environ.get("RECLAIM_SECONDS", "60")),
        handled_file=Path(os.environ.get("HANDLED_FILE", "handled_events")),
    ) as events:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, events.stop)
        async for event in events:
            await handle(event)
            await events.acknowledge(event)


asyncio.run(main())
