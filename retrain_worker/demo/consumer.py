"""A consumer in twenty lines: prints each event about the model."""

import os

from retrain_worker.serving import ModelEvents

url = os.environ.get("REDIS_URL", "redis://localhost:6379")
with ModelEvents(url, group="my_service", consumer="host-1") as events:
    for event in events:
        data = event.payload
        match event.event_type:
            case "model.promoted":
                print(f"{data['new_version']} replaces {data['old_version']}, AUC {data['auc']:.3f}", flush=True)
            case "model.rolled_back":
                print(f"{data['new_version']} returned: {data['reason']}", flush=True)
            case _:
                print(event.event_type, event.flat.get("status"), *data.get("reasons", ())[:1], flush=True)
        events.acknowledge(event)
