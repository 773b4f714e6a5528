"""How deeply a JSON document may be nested."""

from itertools import accumulate, takewhile
from typing import Final

#: Levels of arrays and objects in one JSON document, in both directions.
MAX_DEPTH: Final = 200

#: The same for pydantic, which needs about 6 KiB of stack a level: this fits into a thread that has 256 KiB.
MAX_DEPTH_PYDANTIC: Final = 32

_TO_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

_NO_STEP: Final = bytes(set(range(256)) - set(b'[{]}"'))


def is_deeper(data: bytes, limit: int) -> bool:
    """Whether a parser without a limit of its own could overflow a small stack with it.

    Everything here is linear and runs in C: a cheap bound first, then the brackets alone, outside of strings.
    """
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # An opening bracket is +1, a closing one -1. Two quotes without a bracket between them cancel out.
    steps = data.translate(_TO_STEPS, _NO_STEP).replace(b'""', b"")
    if b'"' in steps:
        steps = _outside_quotes(steps)
    levels, before = limit, len(steps) + 1
    while levels and len(steps) < before:  # peel off innermost pairs: little is left of an ordinary document
        before = len(steps) * 7 // 8
        steps = steps.replace(b"\x01\xff", b"")
        levels -= 1
        if len(steps) <= levels:
            return False
    depths = takewhile((-1).__lt__, accumulate(memoryview(steps).cast("b")))
    return any(map(levels.__lt__, depths))


def _outside_quotes(steps: bytes) -> bytes:
    kept, inside = [], 0
    for start in range(0, len(steps), 65536):  # in pieces, or the parts would need many times the memory
        parts = steps[start : start + 65536].split(b'"')
        kept.append(b"".join(parts[inside::2]))
        inside = (inside + len(parts) - 1) % 2
    return b"".join(kept)
