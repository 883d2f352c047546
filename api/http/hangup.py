"""Detects that a client disconnected while its request waits."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def hangup_check(environ: Mapping[str, Any]) -> Callable[[], bool] | None:
    """Return a function that tells whether the client has disconnected; None if the server has no socket to ask."""
    connection = environ.get("gunicorn.socket")
    return None if connection is None else partial(has_hung_up, connection)


def has_hung_up(connection: Any) -> bool:
    """Return whether the peer of ``connection``, a socket that nothing reads at the moment, has closed its side.

    Peeks without consuming data. A client that has already sent its next request counts as connected. So does a client
    behind a TLS socket, which cannot be peeked into; let a proxy terminate TLS.
    """
    timeout_s = connection.gettimeout()
    connection.settimeout(0)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK) == b"")
    except (BlockingIOError, ValueError):
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(timeout_s)
