"""The Redis data plane: `RedisQueue` and the Lua scripts behind it, one script per arrow of the path."""

from scheduler.queue.records import Claim, Claimed, Ending, Prediction, Submission
from scheduler.queue.redis_queue import RedisQueue, finished_channel, result_key

__all__ = [
    "Claim",
    "Claimed",
    "Ending",
    "Prediction",
    "RedisQueue",
    "Submission",
    "finished_channel",
    "result_key",
]
