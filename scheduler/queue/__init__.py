"""The Redis data plane: `RedisQueue` and the Lua scripts behind it, one script per arrow of the path."""

from windrow.scheduler.queue.keys import finished_channel, result_key
from windrow.scheduler.queue.records import DeadLetter, Prediction
from windrow.scheduler.queue.redis_queue import RedisQueue
from windrow.scheduler.queue.request import Accepted, Claim, Request, Submission

__all__ = [
    "Accepted",
    "Claim",
    "DeadLetter",
    "Prediction",
    "RedisQueue",
    "Request",
    "Submission",
    "finished_channel",
    "result_key",
]
