"""Which request goes wrong, and how: a pure function of the seed and the request, so the plan is known
beforehand.

A fault is drawn for the n-th request with a key. Refusals (declined, out of stock) are drawn for the order
alone: a bank that said no says no again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from hashlib import blake2b

from examples.checkout.orders import Order


class Fault(StrEnum):
    """What a service may do to a request; the value is how the report calls it."""

    FAILED = "500 before the work"
    LOST = "500 after the work"
    CUT = "connection cut after the work"
    SLOW = "slow"
    DECLINED = "payment declined (402)"
    OUT_OF_STOCK = "out of stock (409)"


#: How many requests, or orders, in a hundred.
SHARES = {
    Fault.FAILED: 0.03,
    Fault.LOST: 0.01,
    Fault.CUT: 0.01,
    Fault.SLOW: 0.01,
    Fault.DECLINED: 0.01,
    Fault.OUT_OF_STOCK: 0.01,
}


def trouble(seed: int, key: str, nth: int) -> Fault | None:
    """What happens to the n-th request with this key, besides the answer itself."""
    point = _chance(seed, "trouble", key, str(nth))
    for fault in (Fault.FAILED, Fault.LOST, Fault.CUT, Fault.SLOW):
        point -= SHARES[fault]
        if point < 0:
            return fault
    return None


def delay_s(seed: int, key: str, nth: int) -> float:
    """How long a slow request takes: always well below the client's timeout."""
    return 0.1 + 0.4 * _chance(seed, "delay", key, str(nth))


def refusal(seed: int, order_id: str) -> Fault | None:
    """Whether this order is bound to be refused; stock is asked before payment."""
    if _chance(seed, "stock", order_id) < SHARES[Fault.OUT_OF_STOCK]:
        return Fault.OUT_OF_STOCK
    if _chance(seed, "payment", order_id) < SHARES[Fault.DECLINED]:
        return Fault.DECLINED
    return None


def key_of(kind: str, order_id: str) -> str:
    """The idempotency key of a request: one for each kind and order, whoever asks and however often."""
    return f"{kind}/{order_id}"


def planned(seed: int, orders: Iterable[Order]) -> Counter[Fault]:
    """How often each fault has to fire at the least: on first requests, those that are certain to be made."""
    plan: Counter[Fault] = Counter()
    for order_id in {order.id for order in orders}:
        refused = refusal(seed, order_id)
        kinds = ["reservation"] if refused is Fault.OUT_OF_STOCK else ["reservation", "charge"]
        firsts = [trouble(seed, key_of(kind, order_id), 1) for kind in kinds]
        plan.update(fault for fault in (refused, *firsts) if fault is not None)
    return plan


def _chance(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends on nothing but the arguments."""
    digest = blake2b("\0".join((str(seed), *parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56
