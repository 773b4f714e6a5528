"""How the program ends: codes that scripts can rely on, and the error that carries one."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit code."""

    #: It is done.
    OK = 0
    #: It was refused, it failed, or the invocation that was waited for did; of many, at least one.
    FAILED = 1
    #: What was typed makes no sense; nothing was done.
    USAGE = 2
    #: There is no such invocation, service, handler or value.
    NOT_FOUND = 3
    #: No engine answers there, it lets nobody in, or the file is not there or cannot be used.
    UNREACHABLE = 4
    #: Ctrl-C, or a question that nobody answered.
    INTERRUPTED = 130


class Failed(Exception):
    """Ends the program with one plain sentence on stderr."""

    def __init__(self, message: str, exit: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit = exit


def usage(message: str) -> Failed:
    """What was typed makes no sense."""
    return Failed(message, Exit.USAGE)


def unreachable(message: str) -> Failed:
    """Nobody to ask."""
    return Failed(message, Exit.UNREACHABLE)
