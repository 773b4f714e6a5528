"""The orders file: what a good line holds, and a reader that keeps the good lines and explains the bad
ones.

The reader works line by line, so that one broken quote or one undecodable byte costs one line, not the rest
of the file. It raises `ValueError` only when the file has no usable header, for then no line can be
understood.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import msgspec

#: The currencies we take, and how many decimals each has.
CURRENCIES = {"EUR": 2, "USD": 2, "GBP": 2, "JPY": 0}
#: What we sell.
CATALOGUE = frozenset(
    f"{thing}-{size}" for thing in ("MUG", "LAMP", "DESK", "CHAIR", "RUG", "SHELF") for size in "SML"
)
#: More than this in one order is a typing error, or somebody we should talk to first.
QUANTITY_MAX = 50
COLUMNS = ("order_id", "customer", "name", "sku", "quantity", "amount", "currency")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}")
_WHOLE = re.compile(r"-?[0-9]{1,9}")
_AMOUNT = re.compile(r"(-?)([0-9]{1,9})(?:\.([0-9]{1,4}))?")


class Order(msgspec.Struct, frozen=True):
    """One order, as the handler gets it."""

    id: str
    customer: str
    name: str
    sku: str
    quantity: int
    #: In the smallest unit of the currency: cents, pence, yen.
    amount: int
    currency: str


class Rejected(msgspec.Struct, frozen=True):
    """A line that is not an order, and why."""

    line: int
    reason: str


def read_orders(path: Path) -> tuple[list[Order], list[Rejected]]:
    """Read every line of `path`; blank lines, comments and repeated headers are neither orders nor rejected.

    A line that repeats an earlier order exactly is kept: placing it twice is harmless, and we want to show
    that. One that uses an earlier id for something else is rejected: nobody can tell which of them is meant.
    """
    orders: list[Order] = []
    rejected: list[Rejected] = []
    first_use: dict[str, tuple[int, Order]] = {}
    columns: list[str] | None = None
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            fields = _fields(raw)
            if fields is None:
                continue
            if columns is None:
                columns = _header(path, number, fields)
                continue
            if fields == columns:
                continue
            order = _order(columns, fields)
            earlier_line, earlier = first_use.setdefault(order.id, (number, order))
            if earlier != order:
                raise _Unusable(f"order id {order.id} was used on line {earlier_line} for a different order")
        except _Unusable as error:
            rejected.append(Rejected(number, str(error)))
        else:
            orders.append(order)
    if columns is None:
        raise ValueError(f"{path} has no header line; expected {','.join(COLUMNS)}")
    return orders, rejected


class _Unusable(Exception):
    """Why a line is not an order."""


def _fields(raw: bytes) -> list[str] | None:
    """The fields of a line without the white space around them; None for a blank line or a comment."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Unusable(f"not UTF-8: byte {raw[error.start]:#04x} at column {error.start + 1}") from None
    # Files that were exported in parts and glued together have byte order marks in the middle, too.
    text = text.replace("\ufeff", "").strip()
    if not text or text.startswith("#"):
        return None
    try:
        [fields] = csv.reader([text], strict=True, skipinitialspace=True)
    except csv.Error as error:
        raise _Unusable(f"broken quoting: {error}") from None
    return [field.strip() for field in fields]


def _header(path: Path, number: int, fields: list[str]) -> list[str]:
    if missing := set(COLUMNS) - set(fields):
        raise ValueError(f"{path}, line {number}: the header lacks {', '.join(sorted(missing))}")
    return fields


def _order(columns: list[str], fields: list[str]) -> Order:
    if len(fields) != len(columns):
        raise _Unusable(f"expected {len(columns)} fields, found {len(fields)}")
    row = dict(zip(columns, fields, strict=True))
    if empty := [name for name in COLUMNS if not row[name]]:
        raise _Unusable(f"missing {', '.join(empty)}")
    if not _ID.fullmatch(row["order_id"]):
        raise _Unusable(f"bad order id {row['order_id']!r}: expected letters, digits and dashes")
    if row["sku"] not in CATALOGUE:
        raise _Unusable(f"unknown SKU {row['sku']!r}")
    if row["currency"] not in CURRENCIES:
        raise _Unusable(f"unknown currency {row['currency']!r}")
    return Order(
        id=row["order_id"],
        customer=row["customer"],
        name=row["name"],
        sku=row["sku"],
        quantity=_quantity(row["quantity"]),
        amount=_amount(row["amount"], row["currency"]),
        currency=row["currency"],
    )


def _quantity(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise _Unusable(f"quantity {text!r} is not a whole number")
    quantity = int(text)
    if not 1 <= quantity <= QUANTITY_MAX:
        raise _Unusable(f"quantity {quantity} is not between 1 and {QUANTITY_MAX}")
    return quantity


def _amount(text: str, currency: str) -> int:
    """Money in the smallest unit, read digit by digit: a float would round."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise _Unusable(f"amount {text!r} is not a number")
    sign, whole, fraction = match[1], match[2], match[3] or ""
    decimals = CURRENCIES[currency]
    if len(fraction) > decimals:
        raise _Unusable(f"amount {text} has more decimals than {currency}, which has {decimals}")
    amount = int(whole + fraction.ljust(decimals, "0"))
    if sign or amount == 0:
        raise _Unusable(f"amount {text} is not more than zero")
    return amount
