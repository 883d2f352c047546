"""The Redis data plane: `RedisQueue` and one Lua script per state transition of a request."""

from windrow.scheduler.queue.dead_letters import DeadLetter, DeadLetters
from windrow.scheduler.queue.keys import finished_channel, result_key
from windrow.scheduler.queue.prediction import Prediction
from windrow.scheduler.queue.redis_queue import RedisQueue
from windrow.scheduler.queue.request import Accepted, Claim, Request, Submission

__all__ = [
    "Accepted",
    "Claim",
    "DeadLetter",
    "DeadLetters",
    "Prediction",
    "RedisQueue",
    "Request",
    "Submission",
    "finished_channel",
    "result_key",
]
