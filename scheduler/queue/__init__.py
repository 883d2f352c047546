"""The Redis data plane: `RedisQueue` and the Lua scripts behind it, one script per arrow of the path."""

from windrow.scheduler.queue.keys import finished_channel, result_key
from windrow.scheduler.queue.records import Claim, ClaimedRequest, DeadLetter, FinishedRequest, Prediction, Submission
from windrow.scheduler.queue.redis_queue import RedisQueue

__all__ = [
    "Claim",
    "ClaimedRequest",
    "DeadLetter",
    "FinishedRequest",
    "Prediction",
    "RedisQueue",
    "Submission",
    "finished_channel",
    "result_key",
]
