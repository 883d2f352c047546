"""gunicorn's configuration: ``gunicorn -c python:windrow.api.gunicorn_conf 'windrow.api:create_app()'``.

``WINDROW_HOST`` and ``PORT`` set the address, and ``WEB_CONCURRENCY`` the number of processes. docs/api-server.md has
the measurements behind the choice of the worker class.
"""

from __future__ import annotations

import resource
from typing import Any

from windrow.api.bind import bind_address, check_bind, hosts_of
from windrow.errors import InvalidSetting
from windrow.scheduler.config.settings import load_settings

try:
    _settings = load_settings()
    check_bind(_settings)
except InvalidSetting as error:
    raise SystemExit(f"windrow: {error.detail}") from None

_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
# Every waiting client is an open file, and the default limit of many systems is 1,024.
_wanted = 65_536 if _hard == resource.RLIM_INFINITY else min(65_536, _hard)
if _soft != resource.RLIM_INFINITY and _soft < _wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_wanted, _hard))

bind = bind_address(_settings)
workers = _settings.web_concurrency
worker_class = "windrow.api.gunicorn_worker.JsonGeventWorker"
#: Connections per process, including waiting clients.
worker_connections = 4096
backlog = 2048

#: Also the time that a client may take to send a request's head, and the time that an unread body is drained. Seconds.
keepalive = 5
timeout = 30
#: Seconds for the slowest response after a stop; waiting clients get their 202 at once.
graceful_timeout = 30

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190


def on_starting(server: Any) -> None:
    """Check the addresses of gunicorn's command line, which may differ from the settings, before it listens."""
    try:
        check_bind(_settings, hosts_of(server.cfg.address))
    except InvalidSetting as error:
        raise SystemExit(f"windrow: {error.detail}") from None


accesslog = None
control_socket_disable = True
