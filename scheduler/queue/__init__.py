"""The Redis data plane: `RedisQueue` and the Lua scripts behind it, one script per arrow of the path."""

from windrow.scheduler.queue.keys import finished_channel, result_key
from windrow.scheduler.queue.records import Claim, Claimed, DeadLetter, Ending, Prediction, Submission
from windrow.scheduler.queue.redis_queue import RedisQueue

__all__ = [
    "Claim",
    "Claimed",
    "DeadLetter",
    "Ending",
    "Prediction",
    "RedisQueue",
    "Submission",
    "finished_channel",
    "result_key",
]
