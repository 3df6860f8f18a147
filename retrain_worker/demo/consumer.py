"""A consumer in twenty lines: prints each event about the model."""

import os

from retrain_worker.serving import ModelEvents

url = os.environ.get("REDIS_URL", "redis://localhost:6379")
with ModelEvents(url, group="my_service", consumer="host-1") as events:
    for event in events:
        match event.event_type:
            case "model.promoted":
                model, auc = event.payload, event.payload["auc"] or float("nan")
                print(f"{model['new_version']} replaces {model['old_version']}, AUC {auc:.3f}", flush=True)
            case "model.rolled_back":
                print(f"{event.payload['new_version']} returned: {event.payload['reason']}", flush=True)
            case "learning.retraining.completed" | "learning.retraining.failed" | "learning.retraining.skipped":
                print(event.event_type, event.flat.get("status"), *event.payload["reasons"][:1], flush=True)
            case other:
                print(other, event.flat.get("status"), flush=True)
        events.acknowledge(event)
