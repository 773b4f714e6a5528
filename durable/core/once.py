"""Requests from outside that have an idempotency key, and their answers: a repeated request gets the same answer."""

from typing import NamedTuple

import msgspec

#: For how long an answer is kept whose owner is gone, or that has none.
KEPT_MS = 86_400_000
#: How the keys begin that clients make up, for their own retries.
OF_CLIENT = "durable-client-"
#: The owner of those.
NOBODY = ""


class Once(msgspec.Struct, frozen=True, gc=False):
    """Makes a command take effect once, however often it comes with this key."""

    key: str
    #: Stands for what is asked with it: the same key with something else is a mistake.
    print: bytes = b""

    @property
    def brief(self) -> bool:
        """Whether the answer is kept for a day only: otherwise endless signals would leave endless answers."""
        return self.key.startswith(OF_CLIENT)


class Place(NamedTuple):
    """Where an answer is kept."""

    #: With what it is forgotten: an invocation, by its number; the promises of a workflow's key; or `NOBODY`.
    owner: str
    #: What was asked, and of what: a key means this and nothing else.
    about: str
    key: str


class Answered(msgspec.Struct, frozen=True, gc=False):
    """How it was answered the first time."""

    #: An `Answer`, or the `Status` of the invocation then.
    result: str
    #: The id in the answer: of a restart, the new one's.
    id: str = ""
    print: bytes = b""
    #: Of one that is `NOBODY`'s: until when it is kept.
    until: int = 0
    #: Why its row cannot be read, so that nobody knows what was answered.
    damage: str = ""


def owned_by(seq: int) -> str:
    """The owner of what was asked of an invocation."""
    return str(seq)
