"""What the services write down, and the comparison of their books with the orders: the verdict of the run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from examples.checkout.faults import Fault, refusal
from examples.checkout.orders import Order

#: How much a customer may spend in one sale, in the smallest unit of each currency.
LIMITS = {"EUR": 120_000, "USD": 120_000, "GBP": 100_000, "JPY": 150_000}


class Entry(msgspec.Struct, frozen=True):
    """One line in a service's books: what became of one idempotency key."""

    key: str
    #: reservation, release, charge or refund.
    kind: str
    order: str
    #: Pieces or money that really moved; 0 when it was refused, or when there was nothing to undo.
    units: int
    #: The SKU or the currency.
    of: str
    #: The HTTP status that every request with this key is answered with.
    code: int
    #: Given to the client; different for each entry.
    receipt: str


class Tally(msgspec.Struct):
    """What a service counted besides its books."""

    faults: dict[Fault, int]
    requests: int = 0
    #: Requests with a key that was known already: answered from the books, nothing done.
    repeats: int = 0
    #: A second effect for one order under another key. A real double.
    doubled: int = 0
    #: Repeats by an engine process that had the full answer already: a finished step that ran again.
    needless: int = 0
    in_flight: int = 0


class Discrepancy(msgspec.Struct, frozen=True):
    """Something that is not as it should be."""

    kind: Literal["lost", "doubled", "wrong"]
    words: str


class Outcome(msgspec.Struct, frozen=True):
    """What an engine process learnt about one order: placed (code 200) or refused, and the words for it."""

    order: str
    invocation: str
    code: int
    #: The receipt of the charge, or the error message.
    detail: str


def compare(
    seed: int,
    orders: Sequence[Order],
    seen: Iterable[Outcome],
    stock: Sequence[Entry],
    payment: Sequence[Entry],
    spent: Mapping[str, Mapping[str, int]],
) -> list[Discrepancy]:
    """Everything that is not as it should be; an empty list means that the books match exactly.

    `seen` holds every outcome any engine process has seen, `spent` the state of each customer's ledger.
    """
    by_id = {order.id: order for order in orders}
    outcomes: dict[str, set[Outcome]] = defaultdict(set)
    for outcome in seen:
        outcomes[outcome.order].add(outcome)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in (*stock, *payment):
        entries[entry.order].append(entry)

    found = [
        Discrepancy("wrong", f"{name}: in the books, but nobody ordered it")
        for name in sorted(entries.keys() - by_id.keys())
    ]
    settled: dict[str, Outcome] = {}
    for name, order in by_id.items():
        match sorted(outcomes[name], key=repr):
            case []:
                found.append(Discrepancy("lost", f"{name}: has no outcome"))
            case [outcome]:
                settled[name] = outcome
                found.extend(_order(seed, order, outcome, entries[name]))
            case several:
                words = " and ".join(f"{each.code} {each.detail} ({each.invocation})" for each in several)
                found.append(Discrepancy("wrong", f"{name}: was seen with different outcomes: {words}"))
    found.extend(_ledgers(by_id, settled, spent))
    return found


def _order(seed: int, order: Order, outcome: Outcome, entries: Sequence[Entry]) -> Iterator[Discrepancy]:
    """The outcome must be the one bound to come, and the books exactly what such an outcome leaves."""
    allowed = {Fault.OUT_OF_STOCK: (409,), Fault.DECLINED: (402,), None: (200, 403)}[refusal(seed, order.id)]
    if outcome.code not in allowed:
        words = f"{order.id}: ended with {outcome.code} ({outcome.detail}), expected one of {allowed}"
        yield Discrepancy("wrong", words)
        return
    for kind, times in Counter(entry.kind for entry in entries).items():
        if times > 1:
            yield Discrepancy("doubled", f"{order.id}: the books have {times} entries of kind {kind}")
    expected = _entries(order, outcome.code)
    found = {entry.kind: (entry.code, entry.units, entry.of) for entry in entries}
    for kind in sorted(expected.keys() | found.keys()):
        if expected.get(kind) != found.get(kind):
            words = f"{kind} should be {_words(expected.get(kind))}, is {_words(found.get(kind))}"
            missing = kind not in found
            yield Discrepancy("lost" if missing else "wrong", f"{order.id} ({outcome.code}): {words}")
    charges = [entry.receipt for entry in entries if entry.kind == "charge"]
    if outcome.code == 200 and outcome.detail not in charges:
        words = f"{order.id}: the handler returned receipt {outcome.detail}, the books have {charges}"
        yield Discrepancy("wrong", words)


def _entries(order: Order, code: int) -> dict[str, tuple[int, int, str]]:
    """What both books must hold for an order that ended so: for each kind the code, the units, and of what.

    A compensation is registered before its step, so the step that was refused is undone too: as 0 units.
    """
    pieces, money = order.quantity, order.amount
    match code:
        case 409:
            stock = {"reservation": (409, 0), "release": (200, 0)}
            payment = {}
        case 402:
            stock = {"reservation": (200, pieces), "release": (200, pieces)}
            payment = {"charge": (402, 0), "refund": (200, 0)}
        case 403:
            stock = {"reservation": (200, pieces), "release": (200, pieces)}
            payment = {"charge": (200, money), "refund": (200, money)}
        case _:
            stock = {"reservation": (200, pieces)}
            payment = {"charge": (200, money)}
    of_stock = {kind: (*what, order.sku) for kind, what in stock.items()}
    return of_stock | {kind: (*what, order.currency) for kind, what in payment.items()}


def _ledgers(
    orders: Mapping[str, Order], settled: Mapping[str, Outcome], spent: Mapping[str, Mapping[str, int]]
) -> Iterator[Discrepancy]:
    """Each ledger holds the sum of the placed orders, within the limit; nobody was refused without need."""
    sums: Counter[tuple[str, str]] = Counter()
    for name, outcome in settled.items():
        if outcome.code == 200:
            order = orders[name]
            sums[order.customer, order.currency] += order.amount
    for customer in {order.customer for order in orders.values()} | set(spent):
        for currency, limit in LIMITS.items():
            total = spent.get(customer, {}).get(currency, 0)
            if total != sums[customer, currency]:
                placed = sums[customer, currency]
                words = f"{customer}: the ledger has {total} {currency}, the placed orders sum up to {placed}"
                yield Discrepancy("lost" if total < placed else "doubled", words)
            if total > limit:
                words = f"{customer}: the ledger has {total} {currency}, over the limit of {limit}"
                yield Discrepancy("wrong", words)
    for name, outcome in settled.items():
        order = orders[name]
        total = sums[order.customer, order.currency]
        if outcome.code == 403 and total + order.amount <= LIMITS[order.currency]:
            words = f"{name}: refused as over the limit, but {total} + {order.amount} {order.currency} is not"
            yield Discrepancy("wrong", words)


def _words(what: tuple[int, int, str] | None) -> str:
    return "absent" if what is None else f"{what[0]} with {what[1]} {what[2]}"
