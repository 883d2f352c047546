"""A TCP proxy that can pause all traffic, and close one side of its connections without telling the other."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

CHUNK_BYTES = 1 << 16
CONNECT_S = 5.0
#: SO_LINGER with a timeout of zero: close() sends RST instead of FIN.
AT_ONCE = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections from its own ``port`` to ``target_port`` during a ``with`` block."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_forwarding = threading.Event()
        self._is_forwarding.set()
        self._lock = threading.Lock()
        #: The client's and the target's socket of each connection; either may be closed.
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ended = False

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._listener.close()
        self._is_forwarding.set()
        with self._lock:
            for pair in self._pairs:
                for side in pair:
                    _close(side)

    def pause(self) -> None:
        """Hold back all data in both directions until `resume`."""
        self._is_forwarding.clear()

    def resume(self) -> None:
        """Forward the data held back, and new data."""
        self._is_forwarding.set()

    def leave_half_open(self) -> int:
        """Reset every connection on the target's side without telling the clients; return the number of connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._abandoned = [source for source, _ in pairs]
            for _, target in pairs:
                _close(target)
            return len(pairs)

    def _accept(self) -> None:
        while not self._ended:
            try:
                source, _ = self._listener.accept()
                target = socket.create_connection(self._target, CONNECT_S)
            except OSError:
                continue
            target.settimeout(None)
            with self._lock:
                self._pairs.append((source, target))
            for sender, receiver in ((source, target), (target, source)):
                threading.Thread(target=self._forward, args=(sender, receiver), name="proxy", daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        while True:
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            self._is_forwarding.wait()
            if self._is_abandoned(source, target):
                if not data:
                    return
                continue  # keep reading, so that the sender sees no error
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return

    def _is_abandoned(self, source: socket.socket, target: socket.socket) -> bool:
        with self._lock:
            return not any(source in pair or target in pair for pair in self._pairs)


def _close(side: socket.socket) -> None:
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    with suppress(OSError):
        # Wakes the thread that reads from the socket; close() alone does not.
        side.shutdown(socket.SHUT_RDWR)
    side.close()
