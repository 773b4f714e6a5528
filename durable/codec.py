"""What may stand between the engine and its file: a codec, which turns every stored value into other bytes and back.

An encoded value begins with a mark and the id of the key it was encoded with, both in clear:

    ff 'durable' 01 | key id | 00 | what the codec made of it

So values of several keys, and values from before there was a codec, lie side by side, and each is read as what it is.
Where the file has text, it is `encrypted, key ID: ` and base64.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Collection
from typing import Protocol, runtime_checkable

from durable.core.sealed import Sealed, SealedText, Why
from durable.errors import CodecError, KeyMissingError, UsageError

#: How every encoded value begins: no JSON and no UTF-8 text does.
MARK = b"\xffdurable\x01"
KEY_ID_MAX = 64
#: What each key encodes once, to be told from another one by its id.
PROBE = b'"durable"'
_KEY_ID = re.compile(rf"[A-Za-z0-9._:/@+-]{{1,{KEY_ID_MAX}}}")
_TEXT = re.compile(rf"encrypted, key ({_KEY_ID.pattern}): ([A-Za-z0-9+/]+={{0,2}})")


@runtime_checkable
class Codec(Protocol):
    """Bytes to bytes, over every value that the engine stores: `Engine("app.db", codec=...)`.

    `durable.encryption.AesGcm` is one. Both methods are called often, on the event loop (and from other threads, at
    the same time): they must not wait for anything. What they raise becomes a `CodecError` or a `KeyMissingError`.
    """

    @property
    def key_id(self) -> str:
        """The key for new values: 1 to 64 letters, digits or any of `._:/@+-`. It is stored in clear."""
        ...

    @property
    def key_ids(self) -> Collection[str]:
        """The keys of which it has what it takes to decode."""
        ...

    def encode(self, value: bytes, key_id: str, place: bytes) -> bytes:
        """What to store for a value, and what `decode` makes the value of. It may be different each time.

        `place` names where in the database it is stored, and is the same when it is decoded: a codec that
        authenticates binds the value to it, so that nobody can exchange one for another.
        """
        ...

    def decode(self, data: bytes, key_id: str, place: bytes) -> bytes:
        """The value again. Raises anything where this is not what `encode` made for the place."""
        ...


class Keyless:
    """The codec of whoever looks at encoded values and has no codec: all of them stay sealed."""

    key_id = "-"
    key_ids: Collection[str] = ()

    def encode(self, value: bytes, key_id: str, place: bytes) -> bytes:
        """Nothing can be stored."""
        raise CodecError("there is no codec: what is stored in this database is encoded")

    def decode(self, data: bytes, key_id: str, place: bytes) -> bytes:
        """Nothing is asked of it, as it has no key."""
        raise CodecError("there is no codec")


def checked(codec: object) -> Codec:
    """A codec, if it is one. Raises `UsageError`."""
    try:
        fits = isinstance(codec, Codec) and not isinstance(codec, type)
    except Exception:  # a property of it raises
        fits = False
    if not fits:
        raise UsageError(
            "codec takes an object with key_id, key_ids, encode(value, key_id, place) and decode(data, key_id, "
            f"place), such as durable.encryption.AesGcm(...), not {codec!r}"
        )
    assert isinstance(codec, Codec)
    return codec


def called(place: bytes) -> str:
    """A place as an error names it."""
    return " ".join(place.decode("utf-8", "replace").split("\0"))


class Sealing:
    """A codec, applied to single values. What it cannot decode stays sealed, and is written back as it is."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._key_id = ""
        self._head = b""

    @property
    def key_id(self) -> str:
        """The id of the key for new values. Raises `CodecError`."""
        found = self._codec.key_id
        if found != self._key_id:
            if not isinstance(found, str) or _KEY_ID.fullmatch(found) is None:
                raise CodecError(
                    f"the codec's key_id is {found!r}: it must be 1 to {KEY_ID_MAX} letters, digits or any of ._:/@+-"
                )
            self._key_id, self._head = found, MARK + found.encode() + b"\0"
        return found

    def check(self) -> None:
        """Whether the codec decodes what it encodes. Raises `CodecError`."""
        found = self.open(self.probe(self.key_id), _place_of_probe(self.key_id))
        if isinstance(found, Sealed):
            raise CodecError(f"the codec cannot decode what it has just encoded: {found.why}")
        if found != PROBE:
            raise CodecError(f"the codec does not decode what it encodes: {PROBE!r} came back as {found!r}")

    def probe(self, key_id: str) -> bytes:
        """What tells this key from another one that is given the same id."""
        return self.seal(PROBE, _place_of_probe(key_id))

    def check_key(self, key_id: str, probe: bytes) -> None:
        """Whether a key is the one that made this probe, if the codec has one by its id. Raises `KeyMissingError`."""
        if probe and key_id in self._codec.key_ids and self.open(probe, _place_of_probe(key_id)) != PROBE:
            raise KeyMissingError(
                f"the key that the codec has as {key_id!r} is not the one that values are encoded with: give it the "
                "right one, or, to start without that, none by that id. Nothing was changed",
                (key_id,),
            )

    # ---- bytes ----

    def seal(self, value: bytes, place: bytes) -> bytes:
        """What to store. Raises `CodecError`; `KeyMissingError` for a sealed value that would go elsewhere."""
        if isinstance(value, Sealed):
            if value.place == place:
                return bytes(value)
            raise value.why.error()
        codec = self._codec
        try:
            key_id = codec.key_id
            if key_id != self._key_id:
                key_id = self.key_id
            data = codec.encode(value, key_id, place)
        except CodecError:
            raise
        except Exception as error:
            raise CodecError(f"the codec could not encode {called(place)}: {_said(error)}") from error
        if type(data) is not bytes:
            raise CodecError(f"the codec's encode returned {type(data).__name__} for {called(place)}, not bytes")
        return self._head + data

    def open(self, stored: bytes, place: bytes) -> bytes:
        """What was stored: as it is where it is not encoded, `Sealed` where it cannot be decoded. Raises nothing."""
        if not stored.startswith(MARK):
            return stored
        key, _, data = stored[len(MARK) : len(MARK) + KEY_ID_MAX + 1].partition(b"\0")
        key_id = key.decode("ascii", "replace")
        if _KEY_ID.fullmatch(key_id) is None:
            return Sealed(stored, place, Why(f"what is stored as {called(place)} names no key", "?"))
        data = stored[len(MARK) + len(key) + 1 :]
        found = self._decoded(data, key_id, place)
        return Sealed(stored, place, found) if isinstance(found, Why) else found

    # ---- text ----

    def seal_text(self, text: str, place: bytes) -> str:
        """The same for a column of text."""
        if isinstance(text, SealedText):
            if text.place == place:
                return text.stored
            raise text.why.error()
        sealed = self.seal(text.encode("utf-8", "surrogatepass"), place)
        return f"encrypted, key {self._key_id}: {b64encode(sealed[len(self._head) :]).decode()}"

    def open_text(self, stored: str, place: bytes) -> str:
        """The same for a column of text."""
        parts = _TEXT.fullmatch(stored)
        if parts is None:
            return stored
        try:
            data = b64decode(parts[2], validate=True)
        except NotBase64:
            return stored
        found = self._decoded(data, parts[1], place)
        if isinstance(found, Why):
            return SealedText(stored, place, found)
        return found.decode("utf-8", "surrogatepass")

    def _decoded(self, data: bytes, key_id: str, place: bytes) -> bytes | Why:
        try:
            if key_id not in self._codec.key_ids:
                return Why(
                    f"{called(place)} is encoded with the key {key_id!r}, which the codec does not have: start the "
                    f"engine with a codec that has it (it has {_listed(self._codec.key_ids)})",
                    key_id,
                )
            found = self._codec.decode(data, key_id, place)
        except Exception as error:
            return Why(
                f"{called(place)} cannot be decoded with the key {key_id!r} ({_said(error)}): the key that the codec "
                "has under this id is not the one it was encoded with, or the value was changed since, or taken from "
                "elsewhere. Start the engine with a codec that has the right key, or restore a backup",
                key_id,
            )
        if type(found) is not bytes:
            return Why(f"the codec's decode returned {type(found).__name__} for {called(place)}, not bytes", key_id)
        return found


def _place_of_probe(key_id: str) -> bytes:
    return f"the probe of the key\0{key_id}".encode()


def key_id_of(stored: object) -> str:
    """The id of the key that a stored value is encoded with; "" where it is in clear."""
    if isinstance(stored, str):
        parts = _TEXT.fullmatch(stored)
        return "" if parts is None else parts[1]
    if not isinstance(stored, bytes) or not stored.startswith(MARK):
        return ""
    return stored[len(MARK) : len(MARK) + KEY_ID_MAX + 1].partition(b"\0")[0].decode("ascii", "replace")


def _listed(key_ids: Collection[str]) -> str:
    return ", ".join(sorted(map(str, key_ids))) or "none"


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except Exception:
        return type(error).__name__
