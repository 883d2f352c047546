"""The one way into the queue, for REST, OpenAI routes, Celery callers and ``windrow dead retry``.

`Intake.submit` validates a call, computes what its inputs cost, checks that a worker serves the model, and queues every
input in one round trip to Redis.
"""

from windrow.scheduler.intake.intake import Intake
from windrow.scheduler.intake.submit_call import SubmitCall

__all__ = ["Intake", "SubmitCall"]
