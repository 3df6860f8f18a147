"""A consumer in twenty lines: what happens to the model, as it happens."""

import os

from retrain_worker.serving import ModelEvents

url = os.environ.get("REDIS_URL", "redis://localhost:6379")
with ModelEvents(url, group="my_service", consumer="host-1") as events:
    for event in events:
        said = event.payload
        match event.event_type:
            case "model.promoted":
                print(f"{said['new_version']} replaces {said['old_version']}, AUC {said['auc']:.3f}", flush=True)
            case "model.rolled_back":
                print(f"{said['new_version']} is back: {said['reason']}", flush=True)
            case _:
                print(event.event_type, event.flat.get("status"), *said.get("reasons", ())[:1], flush=True)
        events.acknowledge(event)
