"""A door before PostgreSQL that is silent, passes everything on, or refuses with words of one's own."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

_ASKS_FOR_ENCRYPTION = {80877103, 80877104}


class Held:
    """A server that accepts and is silent; from `release` on it passes everything to another one.

    While it has a `refusal`, it says that to whoever comes, as PostgreSQL refuses a connection.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target, self._open = target, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.held: list[socket.socket] = []
        self.refusal = ""
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        self._open.set()
        for client in self.held:
            client.close()

    def close(self) -> None:
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self.refusal:
                    _refuse(client, self.refusal)
                    continue
                if not self._open.is_set():
                    self.held.append(client)
                    continue
                server = socket.create_connection(self._target)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def _refuse(client: socket.socket, words: str) -> None:
    with client, suppress(OSError):
        while struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))[1] in _ASKS_FOR_ENCRYPTION:
            client.sendall(b"N")
        client.recv(65536)
        fields = b"".join(
            kind + text.encode() + b"\0" for kind, text in ((b"S", "FATAL"), (b"C", "28P01"), (b"M", words))
        )
        client.sendall(b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0")
