"""For consumers: typed events, and a follower that loads each promoted model. Threads or asyncio; torch on use."""

from retrain_worker.serving.events import AsyncModelEvents, ModelEvents
from retrain_worker.serving.follower import AsyncModelFollower, ModelFollower

__all__ = ["AsyncModelEvents", "AsyncModelFollower", "ModelEvents", "ModelFollower"]
