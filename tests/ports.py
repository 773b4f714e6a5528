"""Ports that nobody else is given, however many tests run at once."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that a socket holds, which never listens: a server that is told of it may take it too."""
    with held(0) as holder:
        yield holder.getsockname()[1]


def held(port: int) -> socket.socket:
    """Hold a port that nobody listens at: no other socket gets it by chance, not even one that connects to it."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    return holder
