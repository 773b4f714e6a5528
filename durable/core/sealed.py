"""Stored values that this process cannot decode: carried as they are, and never taken for what they stand for.

The core looks at no value, so it handles a sealed one like any other. A sealed value is written back as it came, to
where it came from and nowhere else. Whoever wants to read it is told why it cannot be read.
"""

from typing import Any, Self

import msgspec

from durable.errors import KeyMissingError


class Why(str):
    """Why something cannot be read that is not damaged: a key is missing."""

    __slots__ = ("key_id",)
    key_id: str

    def __new__(cls, text: str, key_id: str) -> Self:
        """The text says what to do about it."""
        made = super().__new__(cls, text)
        made.key_id = key_id
        return made

    def error(self) -> KeyMissingError:
        """The same, to be raised."""
        return KeyMissingError(str(self), (self.key_id,))


def why_of(error: KeyMissingError) -> Why:
    """The same the other way round."""
    return Why(str(error), error.key_ids[0] if error.key_ids else "?")


class Sealed(bytes):
    """A value that cannot be decoded, as it is stored."""

    #: Where it belongs.
    place: bytes
    why: Why

    def __new__(cls, stored: bytes, place: bytes, why: Why) -> Self:
        """What is stored at a place."""
        made = super().__new__(cls, stored)
        made.place, made.why = place, why
        return made


class SealedText(str):
    """A text that cannot be decoded. As a string, it is what people see instead."""

    stored: str
    place: bytes
    why: Why

    def __new__(cls, stored: str, place: bytes, why: Why) -> Self:
        """What is stored at a place."""
        made = super().__new__(cls, marker_text(why.key_id))
        made.stored, made.place, made.why = stored, place, why
        return made


def marker_text(key_id: str) -> str:
    """The text that people see instead of a sealed one."""
    return f"(encrypted, key {key_id})"


def shown(value: Any) -> Any:
    """A value for people to look at; instead of a sealed one, the id of its key as JSON."""
    return msgspec.json.encode({"encrypted": value.why.key_id}) if isinstance(value, Sealed) else value


def readable(value: bytes) -> bytes:
    """The value, for somebody who is about to decode it. Raises `KeyMissingError`."""
    if isinstance(value, Sealed):
        raise value.why.error()
    return value
