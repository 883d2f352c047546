"""Celery logs the whole body of a message that it cannot use. A body is somebody's input: ours says what it was."""

from __future__ import annotations

import logging

from celery.worker.consumer import consumer

#: Celery's text -> ours, which may name the exception that came as its first argument.
INSTEAD = {
    consumer.UNKNOWN_FORMAT: "a message that is no task was dropped",
    consumer.UNKNOWN_TASK_ERROR: "a message for a task that is not known here was dropped: %s",
    consumer.INVALID_TASK_ERROR: "a message that is no valid task was dropped: %s",
    consumer.MESSAGE_DECODE_ERROR: "a message that cannot be decoded was dropped: %s",
}


class RedactBodies(logging.Filter):
    """Rewrites what the consumer says of messages that it drops."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, without the message."""
        instead = INSTEAD.get(str(record.msg))
        if instead is not None:
            reason = record.args[0] if isinstance(record.args, tuple) and record.args else None
            # A KeyError names the task; any other error may quote what it could not read.
            said = str(reason) if isinstance(reason, KeyError) else type(reason).__name__
            record.msg, record.args = instead, (said,) if "%s" in instead else ()
            record.exc_info = record.exc_text = None
        return True


def keep_bodies_out_of_the_log() -> None:
    """Do so for this process and those that it forks."""
    if not any(isinstance(one, RedactBodies) for one in consumer.logger.filters):
        consumer.logger.addFilter(RedactBodies())
