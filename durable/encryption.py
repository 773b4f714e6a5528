"""A codec that encrypts every stored value with AES-256-GCM (extra `encryption`).

    from durable.encryption import AesGcm

    codec = AesGcm({"2026-11": os.environ["DURABLE_KEY"]})
    engine = Engine("app.db", services=[...], codec=codec)

A key is 32 bytes, or those in base64, as `new_key()` makes them. To rotate, add a key at the end: new values are
encrypted with the last one, and old ones read as long as theirs is there.
"""

import os
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import suppress
from hashlib import blake2b
from threading import Lock

from durable.errors import UsageError

try:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ModuleNotFoundError as error:
    raise UsageError("durable.encryption needs the extra: pip install 'durable-engine[encryption]'") from error

KEY_SIZE, SALT_SIZE, NONCE_SIZE = 32, 16, 12
#: How many nonces are drawn at once.
NONCES_AT_ONCE = 512
#: After how many values another salt is drawn. Random nonces of 96 bits under one key are safe for 2**32 messages.
SALT_AFTER = 2**26
#: How many derived keys are remembered: one for each start of an engine whose values are read.
DERIVED_MAX = 1024

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)  # which has the same nonces as its parent


def new_key() -> str:
    """A fresh random key, in base64: keep it where your secrets are, never beside the database."""
    return b64encode(os.urandom(KEY_SIZE)).decode()


class AesGcm:
    """AES-256-GCM with random nonces; see the module's docstring.

    `keys` are those to decrypt with, by id (ids are stored in clear); the last one encrypts. The place of a value is
    authenticated with it, so a value that was moved, or exchanged for another, is refused as one that was changed.

    Each object, and each 67 million values, encrypt with a key derived from yours and a random salt that is stored
    with the value: so a key never wears out by the number of its nonces. Raises `UsageError`.
    """

    def __init__(self, keys: Mapping[str, bytes | str]) -> None:
        if not isinstance(keys, Mapping) or not keys:
            raise UsageError(f"AesGcm takes its keys by id, such as AesGcm({{'2026-11': key}}), not {_type(keys)}")
        self._keys = {id: _checked(id, key) for id, key in keys.items()}
        self._key_id = next(reversed(self._keys))
        self._derived: OrderedDict[tuple[str, bytes], AESGCM] = OrderedDict()
        self._lock = Lock()
        #: What encrypts now: its salt, and the derived key; for how many more values, and in which process.
        self._own: tuple[bytes, AESGCM] = (b"", AESGCM(bytes(KEY_SIZE)))
        self._left = 0
        self._forks = -1
        #: Drawn in advance.
        self._nonces: list[bytes] = []

    @property
    def key_id(self) -> str:
        """The key that encrypts: the last one."""
        return self._key_id

    @property
    def key_ids(self) -> Collection[str]:
        """The keys that decrypt."""
        return self._keys.keys()

    def encode(self, value: bytes, key_id: str, place: bytes) -> bytes:
        """Encrypt: salt, nonce, and what GCM makes of it."""
        try:
            if key_id != self._key_id or self._forks != _forks:
                raise IndexError
            nonce = self._nonces.pop()
            salt, own = self._own
        except IndexError:
            salt, own, nonce = self._draw(key_id)
        return salt + nonce + own.encrypt(nonce, value, place)

    def decode(self, data: bytes, key_id: str, place: bytes) -> bytes:
        """Decrypt. Raises `cryptography.exceptions.InvalidTag` where that is not what was encrypted for the place."""
        salt, nonce = data[:SALT_SIZE], data[SALT_SIZE : SALT_SIZE + NONCE_SIZE]
        if len(nonce) < NONCE_SIZE:
            raise ValueError("it is too short to be encrypted")
        found = self._derived.get((key_id, salt))
        if found is None:
            found = self._derive(key_id, salt)
        return found.decrypt(nonce, data[SALT_SIZE + NONCE_SIZE :], place)

    def _draw(self, key_id: str) -> tuple[bytes, AESGCM, bytes]:
        """A salt, its key and a nonce; many more nonces are drawn at the same time."""
        nonce = os.urandom(NONCE_SIZE)
        if key_id != self._key_id:  # an older key, for once
            salt = os.urandom(SALT_SIZE)
            return salt, self._derive(key_id, salt), nonce
        with self._lock:
            if self._left <= 0 or self._forks != _forks:
                salt = os.urandom(SALT_SIZE)
                self._nonces = []
                self._own, self._left = (salt, self._derive(key_id, salt)), SALT_AFTER
                self._forks = _forks
            drawn = os.urandom(NONCE_SIZE * NONCES_AT_ONCE)
            self._nonces += [drawn[at : at + NONCE_SIZE] for at in range(0, len(drawn), NONCE_SIZE)]
            self._left -= NONCES_AT_ONCE
            return *self._own, nonce

    def _derive(self, key_id: str, salt: bytes) -> AESGCM:
        key = blake2b(salt, key=self._keys[key_id], person=b"durable AES-GCM", digest_size=KEY_SIZE).digest()
        self._derived[key_id, salt] = made = AESGCM(key)
        if len(self._derived) > DERIVED_MAX:
            with suppress(KeyError):  # another thread has made room
                self._derived.popitem(last=False)
        return made

    def __repr__(self) -> str:
        return f"<AesGcm {self._key_id}, of {len(self._keys)} keys>"


def _checked(id: object, key: object) -> bytes:
    if not isinstance(id, str):
        raise UsageError(f"the id of a key is text, not {id!r}")
    try:
        data = b64decode(key, validate=True) if isinstance(key, str) else key
    except NotBase64:
        raise UsageError(f"the key {id!r} is no base64: durable.encryption.new_key() makes one") from None
    if not isinstance(data, bytes) or len(data) != KEY_SIZE:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else _type(data)
        raise UsageError(f"the key {id!r} must be {KEY_SIZE} bytes (or those in base64), not {found}")
    return data


def _type(value: object) -> str:
    return "nothing" if value in ({}, None) else type(value).__name__
