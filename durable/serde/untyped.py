"""Values without an annotation, bytes, and nothing."""

from typing import Any, Final, TypeVar

import msgspec

from durable.serde.documents import BYTES_MARK, json_serde
from durable.serde.forms import builtins
from durable.serde.places import write_anywhere
from durable.serde.refusals import decode_error, encode_error
from durable.serde.serde import Serde

_BYTES: Final = (bytes, bytearray, memoryview)


def _raw(kind: type) -> Serde[Any]:
    """Bytes as they are; where they were written without an annotation, they are read without the mark."""

    def encode(value: Any) -> bytes:
        if not isinstance(value, _BYTES):
            raise encode_error(kind, value, "it is not bytes")
        data = bytes(value)
        return BYTES_MARK + data if data.startswith(BYTES_MARK) else data

    def decode(data: bytes) -> Any:
        return kind(data.removeprefix(BYTES_MARK))

    return Serde(encode, decode)


def unmarked(data: bytes) -> bytes | None:
    """The bytes that were written without an annotation; None for what is JSON."""
    if data[:1] != b"\0":
        return None
    return data[len(BYTES_MARK) if data.startswith(BYTES_MARK) else 1 :]  # earlier versions wrote the NUL alone


def _encode_none(value: Any) -> bytes:
    if value is not None:
        raise encode_error(None, value, "the annotation promises None")
    return b""


def _decode_none(data: bytes) -> None:
    if data not in (b"", b"null"):
        raise decode_error(None, f"expected nothing, got {len(data)} bytes")


def _untyped(*, any_reader: bool) -> Serde[Any]:
    json = json_serde(
        Any, write_anywhere, msgspec.json.Decoder().decode, dict, builtins,
        records=False, any_reader=any_reader,
    )  # fmt: skip

    def encode(value: Any) -> bytes:
        return BYTES_MARK + value if isinstance(value, _BYTES) else json.encode(value)

    def decode(data: bytes) -> Any:
        if not data:
            return None
        found = unmarked(data)
        return json.decode(data) if found is None else found

    return Serde(encode, decode, "application/json", dict)


RAW: Final = {kind: _raw(kind) for kind in (bytes, bytearray)}

NONE: Final[Serde[Any]] = Serde(_encode_none, _decode_none, "", lambda: {"type": "null"})

GENERIC: Final = json_serde(TypeVar, msgspec.json.Encoder().encode, msgspec.json.Decoder().decode, dict, builtins)

#: For values without an annotation: they come back as they are, in the containers that JSON has, or are refused.
#: Bytes are marked; an empty input is None.
ANY: Final = _untyped(any_reader=False)

#: For what is written where nobody knows what its reader is annotated with: that may say more than JSON does.
ANY_READER: Final = _untyped(any_reader=True)
