"""Writes `orders.csv`: the same bytes every time, with the odd and broken lines that real files have.

`python -m examples.checkout.make_orders` rewrites the file in place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from examples.checkout.orders import CATALOGUE, COLUMNS, CURRENCIES

ORDERS = 2150
CUSTOMERS = 420
PATH = Path(__file__).with_name("orders.csv")

T = TypeVar("T")

_FIRST = (
    "Ada",
    "Björn",
    "Chloé",
    "Dmitri",
    "Eßra",
    "Fátima",
    "Grace",
    "Hồng",
    "Íñigo",
    "Jürgen",
    "Kōji",
    "李娜",
)
_LAST = (
    "Lovelace",
    "Ångström",
    "O'Neill",
    "Škoda",
    "Nuñez",
    "Østergård",
    "Müller",
    "渡辺",
    "García-Márquez",
    "Иванов",
)
_HEADER = ",".join(COLUMNS)

#: Lines that are not orders, and where each kind goes wrong is in its own words.
_BROKEN = (
    "BAD-MISSING,cust-0001,Missing Field,MUG-S,1,12.50",
    "BAD-EXTRA,cust-0001,Extra Field,MUG-S,1,12.50,EUR,thanks!",
    "BAD-EMPTY,,No Customer,MUG-S,1,12.50,EUR",
    "BAD-NEGATIVE,cust-0002,Negative Amount,MUG-S,1,-12.50,EUR",
    "BAD-ZERO,cust-0002,Zero Amount,MUG-S,1,0.00,EUR",
    "BAD-WORDS,cust-0003,Amount In Words,MUG-S,1,twelve fifty,EUR",
    'BAD-COMMA,cust-0003,Decimal Comma,MUG-S,1,"12,50",EUR',
    "BAD-NAN,cust-0003,Not A Number,MUG-S,1,NaN,EUR",
    "BAD-DIGITS,cust-0003,Other Digits,MUG-S,1,१२.५०,EUR",
    "BAD-DECIMALS,cust-0004,Yen Have No Sen,MUG-S,1,1250.50,JPY",
    "BAD-CURRENCY,cust-0004,Unknown Currency,MUG-S,1,12.50,DOGE",
    "BAD-CASE,cust-0004,Lower Case Currency,MUG-S,1,12.50,eur",
    "BAD-SKU,cust-0005,Unknown SKU,PIANO-XL,1,12.50,EUR",
    "BAD-LIMIT,cust-0005,Over The Limit,MUG-S,5000,12.50,EUR",
    "BAD-NONE,cust-0005,None At All,MUG-S,0,12.50,EUR",
    "BAD-HALF,cust-0005,Half A Mug,MUG-S,0.5,12.50,EUR",
    'BAD-QUOTE,cust-0006,"Never Closed,MUG-S,1,12.50,EUR',
    "BAD ID!,cust-0006,Bad Id,MUG-S,1,12.50,EUR",
    "half of a line that somebody cut",
    ",,,,,,",
)


def make_orders() -> bytes:
    """The whole file."""
    draw = Draw(20_261_122)
    lines = [draw.order(number) for number in range(1, ORDERS + 1)]
    # Some lines come twice, word for word; some ids are used again for something else.
    for number in range(1, 13):
        lines.insert(draw.below(len(lines)), lines[draw.below(len(lines))])
        lines.append(draw.order(number * 17))
    lines = [draw.oddly_written(line) for line in lines]
    for line in (
        *_BROKEN,
        "",
        "   ",
        "",
        "# corrections from the Friday export",
        "#",
        _HEADER,
        "\ufeff" + _HEADER,
    ):
        lines.insert(draw.below(len(lines)), line)
    raw = [(line + ("\r" if draw.chance(0.05) else "")).encode() for line in lines]
    raw.insert(1200, "BAD-BYTES,cust-0007,Jürgen in Latin-1,MUG-S,1,12.50,EUR".encode("latin-1"))
    head = ["\ufeff" + _HEADER + "\r", "# orders of the autumn sale; one line, one order"]
    return b"\n".join([line.encode() for line in head] + raw) + b"\n"


class Draw:
    """Seeded choices, made from `Random.random` alone: its sequence is the one Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        self._skus = sorted(CATALOGUE)

    def chance(self, share: float) -> bool:
        """True in `share` of the cases."""
        return self._random() < share

    def below(self, limit: int) -> int:
        """A whole number from 0 up to, but not including, `limit`."""
        return int(self._random() * limit)

    def one_of(self, choices: Sequence[T]) -> T:
        """One of the choices, each as likely as the others."""
        return choices[self.below(len(choices))]

    def order(self, number: int) -> str:
        """A good line. A few customers order a lot, so that some of them run into their limit."""
        customer = self.below(12) if self.chance(0.08) else self.below(CUSTOMERS)
        name = f"{self.one_of(_FIRST)} {self.one_of(_LAST)}"
        if self.chance(0.1):
            name = f'"{name.split()[1]}, {name.split()[0]}"'
        currency = self.one_of(("EUR", "EUR", "EUR", "USD", "GBP", "JPY"))
        cents = 300 + self.below(30_000)
        amount = f"{cents // 100}.{cents % 100:02}" if CURRENCIES[currency] else f"{cents}"
        quantity = 1 + self.below(4)
        sku = self.one_of(self._skus)
        return f"ORD-{number:05},cust-{customer:04},{name},{sku},{quantity},{amount},{currency}"

    def oddly_written(self, line: str) -> str:
        """The same order, now and then in a way that only a tolerant reader understands."""
        if self.chance(0.03):
            line += self.one_of((" ", "   ", "\t", "\u00a0"))
        if self.chance(0.02):
            line = "  " + line
        if self.chance(0.02) and '"' not in line:
            line = line.replace(",", " , ")
        return line


if __name__ == "__main__":
    PATH.write_bytes(make_orders())
    print(f"wrote {PATH}")
