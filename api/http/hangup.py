"""Noticing that a client hung up while its request waits."""

from __future__ import annotations

import socket
from typing import Any


def has_hung_up(connection: Any) -> bool:
    """Whether the other end of ``connection`` (a socket that nobody reads at the moment) sends no more.

    It looks and takes nothing. A client that sent its next request already is taken to be there, and so is one behind a
    TLS socket, which cannot be looked into: let a proxy do TLS.
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
