"""What ends a session with a broker: a decision that somebody has to make, a fault that passes, or nothing to do."""

from durable.errors import DurableError


class Failed(Exception):
    """It cannot go on before somebody has decided something."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


class Trouble(Exception):
    """It is tried again."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


class Ended(Exception):
    """There is nothing to read any more: it was paused or deleted."""


def told(error: BaseException) -> tuple[str, str]:
    """A word and a sentence for what went wrong."""
    if isinstance(error, Trouble):
        return error.reason, str(error)
    if isinstance(error, DurableError):
        return "engine", str(error)
    name = type(error).__name__
    word = "broker"
    if "Authentication" in name or "Sasl" in name:
        word = "authentication"
    elif "Authorization" in name:
        word = "authorization"
    elif "Connection" in name or "NoBrokers" in name or isinstance(error, OSError):
        word = "connection"
    return word, str(error) if str(error).startswith(name) else f"{name}: {error}".removesuffix(": ")
