"""A TCP proxy that can fall silent, and break a connection on one side without telling the other."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

CHUNK_BYTES = 1 << 16
CONNECT_S = 5.0
#: SO_LINGER with no time: close() sends RST and no FIN.
AT_ONCE = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a port of its own for the time of a ``with`` block and passes everything on to ``target_port``."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._speaks = threading.Event()
        self._speaks.set()
        self._lock = threading.Lock()
        #: The two sides of each connection: who connected, and the target; either may be gone.
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ended = False

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._listener.close()
        self._speaks.set()
        with self._lock:
            for pair in self._pairs:
                for side in pair:
                    _close(side)

    def fall_silent(self) -> None:
        """Pass nothing on any more, in no direction; what is sent meanwhile arrives after `speak_again`."""
        self._speaks.clear()

    def speak_again(self) -> None:
        """Pass on what was held back, and what comes."""
        self._speaks.set()

    def leave_half_open(self) -> int:
        """Reset every connection on the target's side; those who connected hear nothing of it. Returns how many."""
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
            for one, other in ((source, target), (target, source)):
                threading.Thread(target=self._pass_on, args=(one, other), name="proxy", daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        while True:
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            self._speaks.wait()
            if self._is_abandoned(source, target):
                if not data:
                    return
                continue  # read on, so that the sender sees nothing but silence
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
        # Wakes the thread that reads from it; close() alone would not.
        side.shutdown(socket.SHUT_RDWR)
    side.close()
