"""Ids, and what they carry.

An invocation id is `inv_1` and 33 base-62 digits: 11 that grow with time (so that the unique index is written at its
right edge), 22 that are random or derived. A child's id is derived from its caller and the entry that asked for it:
a replay, or a crash between asking and committing, arrives at the same id. An awakeable's id names its invocation and
entry, and needs no table.

Restate's clients read such an id, too, as 64 and 128 bits; but their capital letters come after the small ones, while
ours sort as their values do. So the first digit of either part is one with which both readings fit:
`READABLE`. What is derived in a file from before that rule keeps to `FULL`: a key must name what it named before.
"""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE = {digit: value for value, digit in enumerate(DIGITS)}
_PAIRS = [a + b for a in DIGITS for b in DIGITS]
#: How many random bytes a fresh id takes, and the digit each of them stands for: the first one's is below 7.
FRESH_BYTES = 22
_ANY_DIGIT = bytes(ord(DIGITS[byte % 62]) for byte in range(256))
_FIRST_DIGIT = [DIGITS[byte % 7] for byte in range(256)]
_FIRST_DIGITS = "".join(_FIRST_DIGIT).encode()
_INVOCATION = re.compile(r"inv_1[0-9A-Za-z]{33}", re.ASCII)
_DEPLOYMENT = re.compile(r"dp_1[0-9A-Za-z]{22}", re.ASCII)
_SUBSCRIPTION = re.compile(r"sub_1[0-9A-Za-z]{22}", re.ASCII)
_AWAKEABLE = re.compile(r"sign_1([0-9A-Za-z]{33})([1-9A-Za-z][0-9A-Za-z]{0,11})", re.ASCII)
_STAND_IN = "inv_1" + "0" * 11
#: How much of an awakeable's number is its entry; what is above tells the run.
_ENTRY_BITS = 36


class IdSpan(NamedTuple):
    """How large the two parts of the ids that are derived in one file may be: below these."""

    ordinals: int
    entropies: int


#: Every id is a number that Restate's clients can read.
READABLE = IdSpan(10 * 62**10, 7 * 62**21)
#: All of 64 and 128 bits: files that have ids beyond `READABLE`, from versions before that rule.
FULL = IdSpan(2**64, 2**128)


def base62(number: int, width: int) -> str:
    """`number` in base 62, padded to `width` digits (rounded up to an even count inside, then cut)."""
    digits: list[str] = []
    for _ in range((width + 1) // 2):
        number, rest = divmod(number, 3844)
        digits.append(_PAIRS[rest])
    return "".join(reversed(digits))[-width:]


def fresh_id(ordinal: int, noise: bytes) -> str:
    """A fresh id. `ordinal` orders ids by creation; `FRESH_BYTES` of noise make them unique across files."""
    high, low = divmod(ordinal, 3844)
    return f"inv_1{_high_digits(high)}{_PAIRS[low]}{_digits_of(noise)}"


@lru_cache(maxsize=16)
def _high_digits(high: int) -> str:
    """What ids of about the same time begin with."""
    return base62(high, 9)


def fresh_ids(ordinal: int, noise: bytes) -> list[str]:
    """Fresh ids of ordinals from `ordinal` on, one for each `FRESH_BYTES` of noise: cheaper than one by one."""
    digits = bytearray(noise.translate(_ANY_DIGIT))
    digits[::FRESH_BYTES] = noise[::FRESH_BYTES].translate(_FIRST_DIGITS)
    entropies, count = digits.decode(), len(noise) // FRESH_BYTES
    found: list[str] = []
    while (start := len(found)) < count:  # those that begin alike
        high, low = divmod(ordinal + start, 3844)
        begin, pairs = f"inv_1{_high_digits(high)}", _PAIRS[low : low + count - start]
        places = range(start * FRESH_BYTES, (start + len(pairs)) * FRESH_BYTES, FRESH_BYTES)
        found += [f"{begin}{pair}{entropies[at : at + FRESH_BYTES]}" for pair, at in zip(pairs, places, strict=True)]
    return found


def _digits_of(noise: bytes) -> str:
    return _FIRST_DIGIT[noise[0]] + noise[1:].translate(_ANY_DIGIT).decode("ascii")


def invocation_id(ordinal: int, entropy: int) -> str:
    """An id of two numbers, both within `FULL`; a new one is within `READABLE`."""
    return f"inv_1{base62(ordinal, 11)}{base62(entropy, 22)}"


def child_id(parent: str, entry: int, run: str = "", *, span: IdSpan = READABLE) -> str:
    """The id of what entry `entry` of `parent` calls or sends.

    `run` tells runs of the same id apart: an idempotency key used again after its retention names another one.
    """
    digest = blake2b(f"{run or parent}/{entry}".encode(), digest_size=16).digest()
    return f"inv_1{parent[5:16]}{base62(int.from_bytes(digest, 'big') % span.entropies, 22)}"


def claimed_id(service: str, key: str | None, handler: str, idempotency_key: str, *, span: IdSpan = READABLE) -> str:
    """The id of the one invocation that an idempotency key (of a workflow's run: its key) may name.

    Because it is derived, the same request names the same invocation before, while and after it exists. No part has
    a NUL (`registry.check_text` refuses it at every door), so different requests join to different texts.
    """
    text = "\0".join((service, "" if key is None else f"k{key}", handler, idempotency_key))
    digest = blake2b(text.encode(), digest_size=24, person=b"claim").digest()
    ordinal, entropy = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
    return invocation_id(ordinal % span.ordinals, entropy % span.entropies)


def seed(invocation: str) -> int:
    """The seed of an invocation's random numbers."""
    return int.from_bytes(blake2b(invocation.encode(), digest_size=16, person=b"random").digest(), "big")


def fingerprint(*parts: bytes) -> bytes:
    """Eight bytes that stand for what was passed on, when a replay compares it."""
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def is_invocation_id(text: str) -> bool:
    """Whether `text` has the form of an invocation id (it need not exist)."""
    return _INVOCATION.fullmatch(text) is not None


def subscription_id(noise: bytes) -> str:
    """A fresh id of a subscription, of `FRESH_BYTES` of noise."""
    return f"sub_1{_digits_of(noise)}"


def is_subscription_id(text: str) -> bool:
    """Whether `text` has the form of a subscription's id."""
    return _SUBSCRIPTION.fullmatch(text) is not None


def is_deployment_id(text: str) -> bool:
    """Whether `text` has the form of a deployment id."""
    return _DEPLOYMENT.fullmatch(text) is not None


def stand_in_id(seq: int) -> str:
    """The id under which an invocation is found whose own is damaged: no time is as early as its digits say."""
    return f"{_STAND_IN}{base62(seq, 22)}"


def parse_stand_in_id(text: str) -> int | None:
    """The sequence number in a `stand_in_id`; None for every other id."""
    if not text.startswith(_STAND_IN) or not is_invocation_id(text):
        return None
    seq = 0
    for digit in text[len(_STAND_IN) :]:
        seq = seq * 62 + _VALUE[digit]
    return seq if seq < 2**63 else None


def run_number(run: str) -> int:
    """A small number, not 0, that tells runs of the same id apart."""
    return int.from_bytes(blake2b(run.encode(), digest_size=3).digest(), "big") | 1


def awakeable_id(invocation: str, entry: int, run: int = 0) -> str:
    """The id under which the outside completes entry `entry` of `invocation`; `run` 0 means any of that id."""
    number = run << _ENTRY_BITS | entry
    digits = ""
    while number:
        number, rest = divmod(number, 62)
        digits = DIGITS[rest] + digits
    return f"sign_1{invocation[5:]}{digits}"


def parse_awakeable_id(text: str) -> tuple[str, int, int] | None:
    """The invocation id, entry and run of an awakeable id, or None where the form is wrong."""
    match = _AWAKEABLE.fullmatch(text)
    if match is None:
        return None
    number = 0
    for digit in match[2]:
        number = number * 62 + _VALUE[digit]
    run, entry = divmod(number, 1 << _ENTRY_BITS)
    return (f"inv_1{match[1]}", entry, run) if entry else None
