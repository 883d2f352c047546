"""Removes message bodies from Celery's log: Celery logs the whole body, a user's input, of a message it cannot use."""

from __future__ import annotations

import logging

from celery.worker.consumer import consumer

#: Celery's message -> its replacement, which may contain the exception (the first argument of Celery's message).
REPLACEMENTS = {
    consumer.UNKNOWN_FORMAT: "dropped a message that is not a task",
    consumer.UNKNOWN_TASK_ERROR: "dropped a message for an unknown task: %s",
    consumer.INVALID_TASK_ERROR: "dropped a message that is not a valid task: %s",
    consumer.MESSAGE_DECODE_ERROR: "dropped a message that cannot be decoded: %s",
}


class RedactBodies(logging.Filter):
    """Replaces the consumer's log lines about messages that it drops."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, without the message body."""
        replacement = REPLACEMENTS.get(str(record.msg))
        if replacement is not None:
            reason = record.args[0] if isinstance(record.args, tuple) and record.args else None
            # A KeyError names the task; any other error may quote the body.
            text = str(reason) if isinstance(reason, KeyError) else type(reason).__name__
            record.msg, record.args = replacement, (text,) if "%s" in replacement else ()
            record.exc_info = record.exc_text = None
        return True


def redact_message_bodies() -> None:
    """Install `RedactBodies` in this process and the processes that it forks."""
    if not any(isinstance(installed, RedactBodies) for installed in consumer.logger.filters):
        consumer.logger.addFilter(RedactBodies())
