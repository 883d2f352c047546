"""A worker takes no work from a Redis that could lose it."""

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

log = logging.getLogger(__name__)


class CheckRedis(bootsteps.StartStopStep):
    """Checks the server whenever Celery has connected, and so before the first resident is launched.

    A worker that starts is refused. One that runs goes on and complains, since ending it would help nobody.
    """

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012
    #: Consumer steps start again after each reconnect.
    has_passed = False

    def start(self, consumer: Any) -> None:
        """Ask the server; what it does not answer is asked again after Celery's own reconnect."""
        from windrow.worker.celery.app import settings

        try:
            with closing(connect(settings.redis_url)) as redis:
                check_server(redis)
            CheckRedis.has_passed = True
        except InvalidSetting as error:
            log.critical("%s", error.detail)
            if not CheckRedis.has_passed:
                raise WorkerShutdown(os.EX_CONFIG) from None
