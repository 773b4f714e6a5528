"""What ends a session with a broker: a failure that needs a decision, a fault that passes, or nothing left to do."""

from durable.errors import DurableError


class Failed(Exception):
    """The subscription cannot go on until somebody decides something."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


class Trouble(Exception):
    """A fault that passes: the reader tries again."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


class Ended(Exception):
    """There is nothing to read any more: the subscription was paused or deleted."""


def told(error: BaseException) -> tuple[str, str]:
    """What went wrong, as a word and a sentence."""
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
