"""What does it cost to encrypt everything that is stored?"""

import asyncio
import time
from collections.abc import Callable

from benchmarks.support import folder, steps
from benchmarks.table import Result
from durable import Codec, Engine
from durable.encryption import AesGcm, new_key

HANDLERS, COUNT, ROUNDS = 100, 150, 5
#: How long the codec that is slow takes for each value, in both directions: as one without a library of its own.
SLOW_S = 20e-6


class Slow:
    """AES-GCM, and some more time for each value."""

    def __init__(self, codec: AesGcm) -> None:
        self._codec = codec
        self.key_id, self.key_ids = codec.key_id, codec.key_ids

    def encode(self, value: bytes, key_id: str, place: bytes) -> bytes:
        """After some time."""
        _spend(SLOW_S)
        return self._codec.encode(value, key_id, place)

    def decode(self, data: bytes, key_id: str, place: bytes) -> bytes:
        """After some time."""
        _spend(SLOW_S)
        return self._codec.decode(data, key_id, place)


def _spend(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def _steps(codec: Codec | None) -> tuple[float, float]:
    """Steps a second, and microseconds of CPU that a step takes on both threads."""
    with folder() as path:
        async with Engine(path / "bench.db", services=[steps], codec=codec) as engine:
            await asyncio.gather(*[engine.call(steps, 10) for _ in range(HANDLERS)])
            cpu, began = time.process_time(), time.perf_counter()
            await asyncio.gather(*[engine.call(steps, COUNT) for _ in range(HANDLERS)])
            count = HANDLERS * COUNT
            return count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6


def encryption() -> list[Result]:
    """Steps of 100 handlers with a codec beside steps without: in alternating rounds, the best of each."""
    key = new_key()
    codecs: dict[str, Callable[[], Codec | None]] = {
        "without": lambda: None,
        "AES-GCM": lambda: AesGcm({"k": key}),
        f"{SLOW_S * 1e6:.0f} us a value": lambda: Slow(AesGcm({"k": key})),
    }
    rounds = [{name: asyncio.run(_steps(make())) for name, make in codecs.items()} for _ in range(ROUNDS)]
    best = {name: (max(one[name][0] for one in rounds), min(one[name][1] for one in rounds)) for name in codecs}
    (fast, cheap), (encrypted, cost), (slow, _) = best.values()
    names = list(codecs)
    return [
        Result(f"steps/s, {names[1]} (floor: without a codec)", encrypted, "/s", fast, 0.60, "higher"),
        Result(f"CPU of a step, {names[1]} (floor: without a codec)", cost, "us", cheap, 1.40),
        Result(f"steps/s, a codec of {names[2]} (floor: without a codec)", slow, "/s", fast, None, "higher"),
    ]
