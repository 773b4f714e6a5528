"""shim.c: compile it, start a program under it, and speak to it from inside."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("shim.c")


class Fault(IntEnum):
    """What the n-th call suffers; as in shim.c."""

    NEVER = 0
    EIO = 1
    ENOSPC = 2
    EDQUOT = 3
    #: Half of a write is done, and said so.
    SHORT = 4
    #: Half of a write is done, and the call fails with EIO.
    TORN = 5
    #: SIGKILL instead of a sync.
    KILL_AT_SYNC = 6


class Lie(IntFlag):
    """Syncs that are left out; as in shim.c."""

    NOTHING = 0
    NO_FOLDER_SYNC = 1
    NO_DATABASE_SYNC = 2
    NO_WAL_SYNC = 4
    NO_SYNC = 7


def compiler() -> str | None:
    """The system's C compiler."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build(folder: Path) -> Path:
    """Compile the shim into a folder."""
    library = folder / "shim.so"
    command = [compiler() or "cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-lpthread"]
    subprocess.run(command, check=True)
    return library


def start(library: Path, module: str, *arguments: object) -> "subprocess.Popen[str]":
    """A Python program under the shim. Its stdout is a pipe, its stderr ours."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::ResourceWarning", "-m", module, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
        text=True,
    )


class Shim:
    """The shim, from inside a program that runs under it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.powerloss_fired.restype = ctypes.c_long
        self._library.powerloss_calls.restype = ctypes.c_long

    def start(self, folder: Path, trace: Path) -> None:
        """Note from now on what happens below a folder. Follow up an older trace."""
        failed = self._library.powerloss_start(os.fsencode(folder.resolve()), os.fsencode(trace))
        assert not failed, f"{trace} cannot be written"

    def stop(self) -> None:
        """Note nothing any more, and let no call fail."""
        self._library.powerloss_stop()

    def mark(self, what: str, *fields: Any) -> None:
        """Something that was told or done, at its place between the changes."""
        text = json.dumps([what, *fields]).encode()
        self._library.powerloss_mark(text, ctypes.c_size_t(len(text)))

    def kill(self) -> None:
        """SIGKILL this process; what other threads have done by then is noted."""
        self._library.powerloss_kill()

    def lie(self, lie: Lie) -> None:
        """Leave out syncs."""
        self._library.powerloss_lie(int(lie))

    def arm(self, fault: Fault, nth: int = 1, *, for_good: bool = False, operation: int = 0) -> None:
        """Let the n-th call from now on fail, and where it is for good all after it; of one operation, or of all."""
        self._library.powerloss_fault(int(fault), ctypes.c_long(nth), int(for_good), operation)

    @property
    def fired(self) -> int:
        """How often a fault has really happened since `arm`."""
        return int(self._library.powerloss_fired())

    @property
    def calls(self) -> int:
        """How many calls were eligible for it."""
        return int(self._library.powerloss_calls())
