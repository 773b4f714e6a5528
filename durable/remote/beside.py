"""The control socket beside a database file: what it is called, how it is reached, and who is at its other end.

An engine listens there, a client connects; both find it by the same rule from the path of the database.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

SUFFIX = ".sock"
#: The longest address of a Unix socket that every system takes: macOS has room for 103 bytes, Linux for 107.
ADDRESS_MAX = 103
#: A longer file name is replaced by a hash, so that the socket's own name fits behind `/proc/self/fd/N/`.
_NAME_MAX = 72
_DESCRIPTORS = "/proc/self/fd"
#: macOS has no `SO_PEERCRED`; it tells these of a peer in a `struct xucred`.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76


def socket_path(database: str) -> str:
    """Where the engine of this database file listens: `app.db.sock` beside `app.db`, behind symbolic links.

    A file whose name is very long has `durable-<hash>.sock` beside it.
    """
    folder, name = os.path.split(os.path.realpath(database))
    if len(os.fsencode(name)) > _NAME_MAX:
        name = f"durable-{blake2b(os.fsencode(name), digest_size=12).hexdigest()}"
    return os.path.join(folder, name + SUFFIX)


@contextmanager
def address(path: str) -> Iterator[str]:
    """What to bind or connect to: the path, or a short name for it where it is too long for an address.

    Raises `OSError`, also where a path is too long and the system has no short names.
    """
    if len(os.fsencode(path)) <= ADDRESS_MAX:
        yield path
        return
    folder, name = os.path.split(path)
    if not os.path.isdir(_DESCRIPTORS):
        raise OSError(f"the address of a socket has at most {ADDRESS_MAX} bytes here: choose a shorter folder")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_DESCRIPTORS}/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def peer_pid(connected: socket.socket) -> int:
    """The process that listens at the other end; 0 where the system does not tell."""
    return _credentials(connected)[0] if hasattr(socket, "SO_PEERCRED") else 0


def peer_uid(connected: socket.socket) -> int | None:
    """The user at the other end; None where the system does not tell."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            return _credentials(connected)[1]
        told = connected.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(struct.unpack_from("=I", told, 4)[0])
    except OSError:
        return None


def _credentials(connected: socket.socket) -> tuple[int, int]:
    pid, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
