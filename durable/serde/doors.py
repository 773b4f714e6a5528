"""Where values go in and come out: whatever a serializer of the user's does, the error says whose value it is."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from durable.errors import DurableError, SerializationError, ValueTooLargeError
from durable.serde import moments
from durable.serde.forms import encode_stable
from durable.serde.refusals import named, reason_of
from durable.serde.scalars import scalars_of, write
from durable.serde.serde import Serde

T = TypeVar("T")


def stable(value: Any, data: bytes, serde: Serde[Any] | None = None) -> bytes:
    """Bytes that stand for `value` in every process, given how it was encoded: sets and dicts are sorted.

    A set is otherwise written in the order of its hashes, which every process seeds anew. Nothing stands for what a
    serializer writes that is not stable.
    """
    if serde is not None and not serde.stable:
        return b""
    try:
        return encode_stable(value)
    except Exception:  # pydantic, or a serializer of the user's: as they write it
        return data


def encoded(serde: Serde[Any], value: Any, door: str, limit: int) -> bytes:
    """The stored form of what goes in at `door`, whatever a serializer of the user's does.

    Raises `SerializationError`, and `ValueTooLargeError` above `limit` bytes.
    """
    try:
        data = serde.encode(value)
    except DurableError as exc:
        raise named(exc, door) from exc.__cause__
    except Exception as exc:
        raise SerializationError(f"cannot write {door}: its serializer failed with {reason_of(exc)}") from exc
    check_data(data, door, limit)
    return data


def readable(serde: Serde[Any], value: Any, door: str, limit: int) -> bytes:
    """The same for what must be read again: writing does not check types. Raises as `encoded` and `decoded`."""
    data = write(value) if type(value) in scalars_of(serde) else None
    if data is None or len(data) > limit:
        data = encoded(serde, value, door, limit)
        decoded(serde.decode, data, door)
    return data


def check_data(data: object, door: str, limit: int) -> None:
    """Whether a serializer gave what can be stored at `door`. Raises as `encoded`."""
    if not isinstance(data, bytes):
        raise SerializationError(f"cannot write {door}: its serializer gave a {type(data).__name__}, not bytes")
    if len(data) > limit:
        raise ValueTooLargeError(door, len(data), limit)


def decoded(decode: Callable[[bytes], T], data: bytes, what: str) -> T:
    """Its value, whatever a serializer of the user's does. Raises `SerializationError`."""
    try:
        return decode(data)
    except DurableError as exc:
        raise named(exc, what) from exc.__cause__
    except Exception as exc:
        raise SerializationError(f"cannot read {what}: its serializer failed with {reason_of(exc)}") from exc


def outward(serde: Serde[Any], data: bytes) -> bytes:
    """A value for clients that may know RFC 3339 alone: without the names of time zones.

    A text that looks like such a moment and is none stays as it is. Where it cannot be read, it leaves as it is.
    """
    if serde.outward is not None and moments.brackets_in(data):
        with suppress(Exception):
            return serde.outward(data)
    return data
