"""A process that runs one command after the other on its terminal: `python -m tests.cli.terminal COMMANDS`.

COMMANDS is a file with a JSON list of lists of arguments. Each is announced by a line `$ N` and followed by `[CODE]`.
"""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec


def on_a_terminal(
    commands: Sequence[Sequence[str]],
    folder: Path,
    *,
    typed: bytes = b"",
    columns: int = 100,
    env: Mapping[str, str] = {},
    interrupted_after: bytes = b"",
) -> list[str]:
    """What each of these prints on a terminal of so many columns, on which `typed` was typed before.

    With `interrupted_after`, Ctrl-C is typed once that has been printed, and again each second: one that comes just
    before Python begins to read a terminal is not noticed.
    """
    import fcntl
    import termios

    listed = folder / "commands.json"
    listed.write_bytes(msgspec.json.encode(commands))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.terminal", str(listed)], stdin=slave, stdout=slave, stderr=slave,
        env={**environment, "TERM": "xterm-256color", **env}, cwd=Path(__file__).parents[2], start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    os.write(master, typed)
    printed = b""
    deadline, interrupt_at = time.monotonic() + 60, 0.0
    try:
        while time.monotonic() < deadline:
            if interrupted_after and interrupted_after in printed and time.monotonic() >= interrupt_at:
                interrupt_at = time.monotonic() + 1
                os.write(master, b"\x03")
            if not select.select([master], [], [], 0.1)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            printed += part
    finally:
        process.kill()
        process.wait()
        os.close(master)
    text = printed.decode().replace("\r\n", "\n")
    return [part.partition("\n")[2] for part in text.split("$ #")[1:]]


def main(listed: str) -> None:
    from durable.cli.app import run

    for number, arguments in enumerate(msgspec.json.decode(Path(listed).read_bytes())):
        sys.stdout.write(f"$ #{number}\n")
        sys.stdout.flush()
        code = run(arguments)
        sys.stderr.flush()
        sys.stdout.write(f"[{code}]\n" if code else "")
        sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[1])
