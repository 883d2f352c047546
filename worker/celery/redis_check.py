"""Startup check: a worker refuses a Redis that is configured so that it could lose requests."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from typing import Any

from celery import bootsteps
from celery.exceptions import WorkerShutdown

from windrow.errors import InvalidSetting
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.connection.server_check import check_server
from windrow.worker.celery.worker_settings import worker_settings

log = logging.getLogger(__name__)


class CheckRedis(bootsteps.StartStopStep):
    """Checks the Redis server after each connect, and so before the first batch loop starts.

    A worker that is starting stops. A worker that is already running logs the problem and continues.
    """

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012
    #: Consumer steps restart after each reconnect.
    has_passed = False

    def start(self, consumer: Any) -> None:
        """Check the server. If it does not answer, the check runs again after Celery's next reconnect."""

        try:
            with closing(connect(worker_settings().redis_url)) as redis:
                check_server(redis)
            CheckRedis.has_passed = True
        except InvalidSetting as error:
            log.critical("%s", error.detail)
            if not CheckRedis.has_passed:
                raise WorkerShutdown(os.EX_CONFIG) from None
