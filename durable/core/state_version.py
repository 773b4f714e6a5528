"""A version of a key's state, so that a change can be refused if the state has changed meanwhile."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256


def state_version(state: Mapping[str, bytes]) -> str:
    """The version of a key's state, as Restate's clients compute it themselves from what they have read."""
    digest = sha256()
    for index, name in enumerate(sorted(name.encode() for name in state)):
        digest.update(index.to_bytes(8, "big") + b"\x01" + name + b"\x02" + state[name.decode()] + b"\x03")
    return urlsafe_b64encode(digest.digest()).decode().rstrip("=")
