"""`Engine(strict=True)`: what a handler does that a replay cannot repeat is found where it is done, and is an error.

A handler that reads the clock, draws at random, or opens a file or a socket decides differently on its next attempt.
Where such a function is called, Python's profiler tells (`sys.setprofile`, in the event loop's thread, only while a
strict engine runs): it sees calls from code that has imported the function by any name, and of methods of C classes,
which cannot be replaced. Whether a handler calls is told by the context variable that names it: a step is none.

A clock or a random number counts where the user's own code asks for it: libraries note the time for themselves, as
`logging` does. A file, a socket or a process counts whoever opens it, but not for a traceback, or for what the
standard library has to look up once: MIME types, time zones. What the user's code does while a line is logged, a
module is imported, or the engine reads or writes a value, is not the handler's.
"""

import datetime
import dis
import io
import os
import random
import secrets
import site
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

from durable import log
from durable.errors import UsageError
from durable.runtime.attempt import Attempt
from durable.runtime.current import CURRENT
from durable.runtime.forgotten import OURS

_CLOCK = "the time: read it with ctx.now(), which is recorded"
_CHANCE = "chance: draw with ctx.random() or ctx.uuid(), which come out the same on each attempt"
_OUTSIDE = "the outside: put it into a step, with ctx.run()"

#: Where code of the user's is not: the standard library, installed packages, and ourselves.
_NOT_THEIRS = tuple(
    {
        OURS,
        "<frozen ",
        *(f"{path}{os.sep}" for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))),
        *(f"{path}{os.sep}" for path in (*site.getsitepackages(), site.getusersitepackages())),
    }
)
_STDLIB = os.path.dirname(os.__file__) + os.sep
#: On the way from the user's code through one of these, files are opened that are no part of what a handler does.
_ASIDE = tuple(
    f"{_STDLIB}{name}"
    for name in ("linecache.py", "traceback.py", "warnings.py", "tokenize.py", "mimetypes.py", f"zoneinfo{os.sep}")
)
#: What the user's code does when one of these has called it is not the handler's.
_NOT_THE_HANDLERS = f"{_STDLIB}logging{os.sep}", "<frozen importlib", f"{OURS}serde{os.sep}"
#: Those that ask the clock where they get no more arguments than so many.
_MOMENTS: dict[Any, int] = {time.gmtime: 0, time.localtime: 0, time.ctime: 0, time.asctime: 0, time.strftime: 1}


def _functions() -> dict[Any, tuple[str, str]]:
    """Those that are written in C."""
    found: dict[Any, tuple[str, str]] = {
        one: (f"time.{one.__name__}", _CLOCK) for one in (time.time, time.time_ns, *_MOMENTS)
    }
    for kind in (datetime.datetime, datetime.date):
        for name in ("now", "utcnow", "today"):
            if hasattr(kind, name):
                found[getattr(kind, name)] = f"{kind.__name__}.{name}", _CLOCK
    found |= {one: (f"random.{one.__name__}", _CHANCE) for one in (random.random, random.getrandbits)}
    found[os.urandom] = "os.urandom", _CHANCE
    return found | {io.open: ("open", _OUTSIDE), os.open: ("os.open", _OUTSIDE), os.system: ("os.system", _OUTSIDE)}


def _codes() -> dict[CodeType, tuple[str, str]]:
    """Those that are written in Python."""
    found: dict[CodeType, tuple[str, str]] = {}
    for module in (random, secrets, uuid):
        for name in ("uuid1", "uuid4") if module is uuid else module.__all__:
            function = getattr(module, name)
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if isinstance(code, CodeType):
                found.setdefault(code, (f"{module.__name__}.{name}", _CHANCE))
    found[socket.socket.__init__.__code__] = "socket.socket", _OUTSIDE
    found[subprocess.Popen.__init__.__code__] = "subprocess.Popen", _OUTSIDE
    return found


class Lookout:
    """Sees what handlers do, in the thread in which it begins; several engines share one."""

    def __init__(self) -> None:
        self._functions = _functions()
        self._codes = _codes()
        self._before: Callable[[FrameType, str, Any], object] | None = None
        self._engines = 0

    def begin(self) -> None:
        """One more engine is strict."""
        self._engines += 1
        if self._engines == 1:
            before: Any = sys.getprofile()
            if before is not None and not callable(before):
                log.engine.warning("a profiler runs here, so a strict engine does not see what its handlers call")
                return
            self._before = before
            sys.setprofile(self)

    def end(self) -> None:
        """One fewer. Somebody else's profiler is left alone."""
        self._engines -= 1
        if not self._engines and sys.getprofile() is self:
            sys.setprofile(self._before)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Python calls something, or has done so."""
        if not self._engines:  # the last one ended in another thread
            sys.setprofile(self._before)
            return
        if self._before is not None:
            self._before(frame, event, argument)
        if event == "c_call":
            found = self._functions.get(argument)
            if found is not None and argument in _MOMENTS and not _called_with(frame, _MOMENTS[argument]):
                return
            caller: FrameType | None = frame
        elif event == "call":
            found = self._codes.get(frame.f_code)
            caller = frame.f_back
        else:
            return
        if found is not None:
            here = CURRENT.get()
            if isinstance(here, Attempt) and here.active and here.broken is None:
                with suppress(RecursionError):
                    self._look(here, *found, frame, caller)

    def _look(self, attempt: Attempt, name: str, what: str, frame: FrameType, caller: FrameType | None) -> None:
        if what is _CHANCE and frame is not caller and _draws_from_its_own(frame):
            return
        if what is _OUTSIDE:
            caller = next(_theirs(caller), None)
        elif caller is not None and caller.f_code.co_filename.startswith(_NOT_THEIRS):
            return
        if caller is not None and _is_the_handlers(caller):
            place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            attempt.breaks(UsageError(f"{attempt.target}: {name}() in a handler, at {place}, asks {what}"))


def _draws_from_its_own(frame: FrameType) -> bool:
    """Whether a method of `random.Random` is one of a generator that the handler has made, and may have seeded."""
    own = frame.f_locals.get("self")
    return isinstance(own, random.Random) and own is not random._inst and not isinstance(own, random.SystemRandom)


def _called_with(frame: FrameType, most: int) -> bool:
    """Whether a function is called here with at most so many arguments, as far as its caller's code tells."""
    code = frame.f_code.co_code
    return dis.opname[code[frame.f_lasti]] in ("CALL", "PRECALL") and code[frame.f_lasti + 1] <= most


def _is_the_handlers(frame: FrameType | None) -> bool:
    """Whether a user's function runs for the handler: not for a log, an import, or a value that the engine reads."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_NOT_THE_HANDLERS):
            return False
        if file.startswith(OURS):
            return True
        frame = frame.f_back
    return True


def _theirs(frame: FrameType | None) -> Iterator[FrameType]:
    """The user's own frames, from the innermost on; none where the way to it leads through a log or an import."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith((OURS, *_NOT_THE_HANDLERS, *_ASIDE)):
            return
        if not file.startswith(_NOT_THEIRS):
            yield frame
            return
        frame = frame.f_back


lookout = Lookout()
