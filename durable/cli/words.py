"""Moments, durations, ids and values as people read them."""

import json
from datetime import UTC, datetime
from typing import Any

from durable.core.duration import render
from durable.log import printable

#: An id is `inv_1` and 33 letters or digits; shortened, it has so many of its first and of its last.
_HEAD, _TAIL = 12, 6


def moment_ms(text: str | None) -> int | None:
    """A moment as it travels, in ms since the epoch."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def local(text: str | None) -> str:
    """A moment in this machine's time zone."""
    ms = moment_ms(text)
    if ms is None:
        return text or ""
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(" ", "milliseconds")


def roughly(ms: int) -> str:
    """A duration by its two largest units: "2d 3h", "4m 10s", "1.25s", "85ms"."""
    ms = max(0, ms)
    if ms < 1000:
        return f"{ms}ms"
    if ms < 10_000:
        return f"{ms / 1000:.2f}".rstrip("0").rstrip(".") + "s"
    return " ".join(render(ms // 1000 * 1000).split()[:2])


def ago(text: str | None, now: int) -> str:
    """How long ago it was, or how long it will be."""
    ms = moment_ms(text)
    if ms is None:
        return ""
    return f"{roughly(now - ms)} ago" if ms <= now else f"in {roughly(ms - now)}"


def short(id: str) -> str:
    """An id for a narrow terminal."""
    return id if len(id) <= _HEAD + _TAIL + 1 else f"{id[:_HEAD]}…{id[-_TAIL:]}"


def line(text: object) -> str:
    """One line, whatever it is made of: nothing in it moves the terminal's cursor, or begins another line."""
    return printable(str(text))


def compact(value: Any) -> str:
    """A value as JSON on one line."""
    return line(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def payload(value: dict[str, Any] | None) -> str:
    """A stored value: JSON, or how many bytes there are."""
    if value is None:
        return ""
    if "json" in value:
        return compact(value["json"])
    return f"({len(value.get('base64', '')) * 3 // 4:,} bytes)"


def many(number: int, noun: str) -> str:
    """How many there are: "1 key", "2,000 keys"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
