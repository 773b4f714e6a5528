"""Stored values as commands print them: never is a note about a value printed as if it were the value.

In a row, a value that is JSON is its `value`; other bytes are its `base64`; and one that is not there has the `value`
null, with `omitted` saying why. People read a note in brackets instead.
"""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from durable.cli.commands import Desk
from durable.cli.exits import Failed
from durable.cli.words import compact
from durable.serde import BYTES_MARK


def members(data: bytes | None, why_not: str) -> dict[str, Any]:
    """What a row says of a stored value; None was left out, and `why_not` is the reason."""
    if data is None:
        return {"value": None, "omitted": why_not}
    try:
        return {"value": msgspec.json.decode(data)}
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {"base64": base64.b64encode(data.removeprefix(BYTES_MARK)).decode()}


def cell(row: Mapping[str, Any]) -> str:
    """The same in a table."""
    if "omitted" in row:
        return f"({row['omitted']})"
    if "base64" in row:
        return f"({len(base64.b64decode(row['base64'])):,} bytes)"
    return compact(row["value"])


def value_in(row: Mapping[str, Any], what: str) -> Any:
    """The value in a row, for a document that has no room for anything else. Raises `Failed`."""
    if "omitted" in row:
        raise Failed(f"{what} is not shown: {row['omitted']}")
    if "base64" in row:
        raise Failed(f"{what} is no JSON: ask for it alone and without --json, or for all of them with --jsonl")
    return row["value"]


def print_value(desk: Desk, row: Mapping[str, Any], what: str) -> None:
    """A value alone: JSON, or bytes as they are. Raises `Failed`."""
    if "base64" in row and desk.out.form == "text":
        desk.out.raw(base64.b64decode(row["base64"]))
    else:
        desk.out.value(value_in(row, what))
