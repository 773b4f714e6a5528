"""What the engine says: the only way of this package to `logging`, and nothing that happens there harms the engine.

Handlers, filters and record factories are the user's, and so are many objects that a line is made of; any of them may
raise. A line that cannot be said is lost, and that is all: whoever says it goes on.

A line is one line: names, keys and texts of errors come from anywhere, and none of them can end it, begin another or
move a terminal's cursor. A traceback below it has several, and they cannot either.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from logging import Filter as Filter
from logging import LogRecord as LogRecord
from types import TracebackType
from typing import NamedTuple

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

_root = logging.getLogger("durable")
_lost = False


class About(NamedTuple):
    """Which invocation a line is about: the attributes of its record, besides those that every record has."""

    invocation_id: str
    target: str
    key: str | None = None
    attempt: int | None = None
    #: The name of the step, where it is about one.
    step: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


#: Records that are kept instead of being said, with their loggers.
Kept = list[tuple[logging.Logger, logging.LogRecord]]
_kept: ContextVar[Kept | None] = ContextVar("durable_log_kept", default=None)


class Cause(NamedTuple):
    """An exception that a line shows: the frames that are its reader's, and how it reads in the log."""

    error: BaseException
    frames: TracebackType | None
    text: str
    #: Whether formatters and error trackers can look at it themselves and come to an end.
    safe: bool = True


class Log:
    """One logger of the tree `durable.*`: the part of the engine that speaks."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"durable.{name}")
        #: Whether anybody listens to lines of a level; asked before what is dear to make.
        self.hears: Callable[[int], bool] = self._logger.isEnabledFor

    def debug(self, message: str, *arguments: object, about: About | None = None) -> None:
        """One event of many in the life of an invocation."""
        self._say(logging.DEBUG, message, arguments, about)

    def info(self, message: str, *arguments: object, about: About | None = None) -> None:
        """Something an operator may want to know."""
        self._say(logging.INFO, message, arguments, about)

    def warning(
        self, message: str, *arguments: object, about: About | None = None, cause: "Cause | None" = None
    ) -> None:
        """Something an operator should look at, and the engine goes on by itself."""
        self._say(logging.WARNING, message, arguments, about, cause)

    def error(
        self, message: str, *arguments: object, about: About | None = None, cause: BaseException | Cause | None = None
    ) -> None:
        """Something that waits until somebody acts; `cause` is shown with its traceback."""
        self._say(logging.ERROR, message, arguments, about, cause)

    def critical(self, message: str, *arguments: object, cause: BaseException | None = None) -> None:
        """The engine cannot go on; `cause` is shown with its traceback."""
        self._say(logging.CRITICAL, message, arguments, None, cause)

    def _say(
        self,
        level: int,
        message: str,
        arguments: tuple[object, ...],
        about: About | None,
        cause: BaseException | Cause | None = None,
    ) -> None:
        global _lost
        try:
            logger = self._logger
            if not logger.isEnabledFor(level):
                return
            shown = tuple([one if isinstance(one, int | float) else printable(str(one)) for one in arguments])
            if isinstance(cause, BaseException):
                cause = Cause(cause, cause.__traceback__, "".join(traceback.format_exception(cause)))
            shows = (type(cause.error), cause.error, cause.frames) if cause is not None and cause.safe else None
            path, line, function, _ = logger.findCaller(stacklevel=3)
            extra = None if about is None else about._asdict()
            record = logger.makeRecord(logger.name, level, path, line, message, shown, shows, function, extra)
            if cause is not None:  # formatters show it as it is; those that make their own of it have the exception
                record.exc_text = "\n".join(map(printable, cause.text.rstrip().split("\n")))
            kept = _kept.get()
            if kept is None:
                logger.handle(record)
            else:
                kept.append((logger, record))
            _lost = False
        except (KeyboardInterrupt, SystemExit):  # meant for the process, not for whoever says something
            raise
        except BaseException as error:
            if not _lost:  # once, until the log works again
                _lost = True
                _complain(error)


#: The tree. `docs/logging.md` says what each of them is for.
engine, invocation, store, kafka, http = map(Log, ("engine", "invocation", "store", "kafka", "http"))


def to_stderr() -> None:
    """Show the log on stderr, for a program that is nothing but an engine; what the application has set up stays."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if _root.level == logging.NOTSET:
        _root.setLevel(logging.INFO)


def keep(records: Kept) -> Token[Kept | None]:
    """From now on keep what is said in this context, and in those that are copied from it."""
    return _kept.set(records)


@contextmanager
def kept() -> Iterator[Kept]:
    """Keep what is said in this context, and in those that are copied from it; `say` says it after all."""
    records: Kept = []
    token = keep(records)
    try:
        yield records
    finally:
        _kept.reset(token)


def say(records: Kept) -> None:
    """Say what was kept."""
    for logger, record in records:
        with suppress(Exception):  # a line that cannot be said is lost
            logger.handle(record)


class Overheard(logging.Filter):
    """Takes what other libraries say, where that is about us: none of it reaches their own log then."""

    def __init__(self, names: Iterable[str], take: Callable[[str, BaseException | None], bool]) -> None:
        """`take` is given a line, and the error that it is about; returns whether it is ours. It raises nothing."""
        super().__init__()
        self._take = take
        for name in names:
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line goes on."""
        given = record.args if isinstance(record.args, tuple) else ()
        error = next((one for one in given if isinstance(one, BaseException)), None)
        try:
            return not self._take(record.getMessage() if record.levelno > logging.DEBUG else "", error)
        except Exception:  # whatever a line is made of
            return True


def printable(text: str) -> str:
    """Text for one line: control characters, line ends and surrogates are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _complain(error: BaseException) -> None:
    """Where `logging` itself would: on stderr, unless that was turned off."""
    if not logging.raiseExceptions:
        return
    with suppress(Exception):
        sys.stderr.write(f"durable: lines are missing in the log, writing one raised {type(error).__qualname__}\n")
