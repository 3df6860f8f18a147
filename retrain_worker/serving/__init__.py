"""For consumers: typed events, and a follower that loads each promoted model. Threads or asyncio; torch on use.

`payloads` holds the type of each payload, `ModelEvent` the events with the type of theirs.
"""

from retrain_worker.domain import payloads
from retrain_worker.domain.typed_events import ModelEvent
from retrain_worker.serving.events import AsyncModelEvents, ModelEvents
from retrain_worker.serving.follower import AsyncModelFollower, ModelFollower

__all__ = ["AsyncModelEvents", "AsyncModelFollower", "ModelEvent", "ModelEvents", "ModelFollower", "payloads"]
