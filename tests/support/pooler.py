"""A pooler before PostgreSQL, as PgBouncer is in transaction mode: each transaction gets another backend.

Only for servers that trust their clients, since it opens the backends with the client's own first message.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from itertools import cycle

_ASKS_FOR_ENCRYPTION = {80877103, 80877104}


def pooler(server: tuple[str, int], backends: int = 3) -> int:
    """Listen on a port, which is returned, for as long as the process lives."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            client = listener.accept()[0]
            threading.Thread(target=serve, args=(client, server, backends), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def serve(client: socket.socket, server: tuple[str, int], backends: int) -> None:
    """Relay messages; the backend changes whenever one says that no transaction is open."""
    hello = _hello(client)
    opened = [socket.create_connection(server) for _ in range(backends)]
    for line in (client, *opened):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # many messages are small
    with suppress(OSError, EOFError):
        for number, backend in enumerate(opened):
            backend.sendall(hello)
            while (message := _message(backend))[:1] != b"Z":
                if number == 0:
                    client.sendall(message)
        client.sendall(message)
        turns, backend, idle = cycle(opened), opened[0], True
        while True:
            for ready in select.select([client, backend], [], [])[0]:
                message = _message(ready)
                if ready is client:
                    backend, idle = (next(turns) if idle else backend), False
                    backend.sendall(message)
                else:
                    idle = message[:1] == b"Z" and message[5:6] == b"I"
                    client.sendall(message)
    for line in (client, *opened):
        line.close()


def _hello(client: socket.socket) -> bytes:
    """The first message of a client, which has no kind; encryption is declined."""
    while True:
        head = _exactly(client, 8)
        length, code = struct.unpack("!II", head)
        if code not in _ASKS_FOR_ENCRYPTION:
            return head + _exactly(client, length - 8)
        client.sendall(b"N")


def _message(line: socket.socket) -> bytes:
    head = _exactly(line, 5)
    return head + _exactly(line, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = line.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
