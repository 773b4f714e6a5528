"""Processes that are forked from one that has imported their program: a start takes a tenth of the time.

    python -m tests.process.nursery MODULE

A socket is its stdin. It forks for each request, and runs the module's `run` there, with the arguments and the stdin,
stdout and stderr that came along. It reaps a child only when it is asked how that one ended: until then nobody else
gets its pid.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Self


def serve(module: str) -> None:
    program = importlib.import_module(module)
    with socket.socket(fileno=os.dup(0)) as asked:
        while True:
            request, descriptors, _, _ = socket.recv_fds(asked, 1 << 16, 3)
            if not request:
                return
            if not descriptors:
                _, status = os.waitpid(int(request), 0)
                asked.sendall(b"%d" % os.waitstatus_to_exitcode(status))
                continue
            pid = os.fork()
            if not pid:
                asked.close()
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                sys.argv[1:] = json.loads(request)
                program.run()
                sys.exit()
            for descriptor in descriptors:
                os.close(descriptor)
            asked.sendall(b"%d" % pid)


class Nursery:
    """One such process, in the folder that has the program. Leaving the block ends it."""

    def __init__(self, module: str, folder: Path) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-W", "default", "-m", "tests.process.nursery", module]
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=theirs.fileno(), env={**os.environ, "PYTHONPATH": str(folder)}
            )

    def ask(self, request: bytes, descriptors: list[int]) -> int:
        if descriptors:
            socket.send_fds(self.socket, [request], descriptors)
        else:
            self.socket.sendall(request)
        return int(self.socket.recv(100))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._process.wait()


class Born:
    """What `subprocess.Popen` would be."""

    def __init__(self, nursery: Nursery, arguments: list[str], stderr: IO[bytes]) -> None:
        self._nursery = nursery
        self.returncode: int | None = None
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(ours_in, "wb", 0)
        self.stdout: IO[bytes] = os.fdopen(ours_out, "rb", 0)
        try:
            self.pid = nursery.ask(json.dumps(arguments).encode(), [theirs_in, theirs_out, stderr.fileno()])
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._nursery.ask(b"%d" % self.pid, [])
        return self.returncode


if __name__ == "__main__":
    serve(sys.argv[1])
