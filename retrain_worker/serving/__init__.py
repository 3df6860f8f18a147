"""For those who react: typed events, and a model that keeps itself current. Threads or asyncio; torch only to load."""

from retrain_worker.serving.events import AsyncModelEvents, ModelEvents
from retrain_worker.serving.follower import AsyncModelFollower, ModelFollower

__all__ = ["AsyncModelEvents", "AsyncModelFollower", "ModelEvents", "ModelFollower"]
