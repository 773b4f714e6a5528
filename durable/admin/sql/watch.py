"""Time and disk while a statement runs: SQLite asks every few steps whether to go on.

What is sorted goes to temporary files, at hundreds of MB a second. On a disk that is full the engine stops, so what
fills it is stopped before.
"""

import os
import time

#: Where SQLite puts temporary files: the first of these that can be written to.
_FOLDERS = ("/var/tmp", "/usr/tmp", "/tmp", ".")
#: How long it may go on without a look at the disk.
_LOOK_S = 0.01


class Watch:
    """Called by SQLite: 1 stops the statement. Afterwards `late` and `greedy` tell why."""

    def __init__(self, seconds: float, temporary_bytes: int) -> None:
        self._ends = time.monotonic() + seconds
        self._looks = 0.0
        self._folder = _temporary_folder()
        self._least = _free(self._folder) - temporary_bytes
        self.late = False
        self.greedy = False

    def __call__(self) -> int:
        """Whether to stop."""
        now = time.monotonic()
        if now > self._ends:
            self.late = True
        elif now > self._looks:
            self._looks = now + _LOOK_S
            self.greedy = _free(self._folder) < self._least
        return int(self.late or self.greedy)


def _temporary_folder() -> str:
    folders = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), *_FOLDERS)
    return next((one for one in folders if one and os.path.isdir(one) and os.access(one, os.W_OK | os.X_OK)), ".")


def _free(folder: str) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:  # whoever sorts will be told
        return 0
    return found.f_bavail * found.f_frsize
