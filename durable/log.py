"""What the engine says: the only way of this package to `logging`, and nothing that happens there harms the engine.

Handlers, filters and record factories are the user's, and so are many objects that a line is made of; any of them may
raise. A line that cannot be said is lost, and that is all: whoever says it goes on.

A line is one line: names, keys and texts of errors come from anywhere, and none of them can end it, begin another or
move a terminal's cursor.
"""

import logging
import sys
from contextlib import suppress

_logger = logging.getLogger("durable")
_lost = False


def info(message: str, *arguments: object) -> None:
    """Something an operator may want to know."""
    _say(logging.INFO, message, arguments)


def warning(message: str, *arguments: object) -> None:
    """Something an operator should look at."""
    _say(logging.WARNING, message, arguments)


def error(message: str, *arguments: object, cause: BaseException | None = None) -> None:
    """Something failed, and everything else goes on; `cause` is shown with its traceback."""
    _say(logging.ERROR, message, arguments, cause)


def critical(message: str, *arguments: object, cause: BaseException | None = None) -> None:
    """The engine cannot go on; `cause` is shown with its traceback."""
    _say(logging.CRITICAL, message, arguments, cause)


def to_stderr() -> None:
    """Show the log on stderr, for a program that is nothing but an engine; what the application has set up stays."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.INFO)


def printable(text: str) -> str:
    """Text for one line: control characters, line ends and surrogates are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _say(level: int, message: str, arguments: tuple[object, ...], cause: BaseException | None = None) -> None:
    global _lost
    try:
        if not _logger.isEnabledFor(level):
            return
        shown = [one if isinstance(one, int | float) else printable(str(one)) for one in arguments]
        _logger.log(level, message, *shown, exc_info=cause, stacklevel=3)
        _lost = False
    except (KeyboardInterrupt, SystemExit):  # meant for the process, not for whoever says something
        raise
    except BaseException as error:
        if not _lost:  # once, until the log works again
            _lost = True
            _complain(error)


def _complain(error: BaseException) -> None:
    """Where `logging` itself would: on stderr, unless that was turned off."""
    if not logging.raiseExceptions:
        return
    with suppress(Exception):
        sys.stderr.write(f"durable: lines are missing in the log, writing one raised {type(error).__qualname__}\n")
