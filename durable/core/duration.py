"""A length of time: read from what people write, kept as whole milliseconds, printed back.

Text comes in three forms, and a sign other than ``+`` is refused in each:

========  ======================================  ===============================================
friendly  ``90s``, ``1h 30m``, ``1 hour, 5min``   lower case, largest unit first, none repeated
clock     ``1:30:00``, ``1d 01:30:00``            may follow weeks and days
ISO 8601  ``PT1H30M``, ``P1DT12H``, ``pt0.5s``  any case
========  ======================================  ===============================================

Only the last number may have a fraction (``.`` or ``,``, up to nine digits), and only on hours or smaller.
A number needs a unit, except the bare ``0``. Days are 24 hours; months and years have no fixed length and are
refused. Every refusal is a ``ValueError``.
"""

import re
from datetime import timedelta
from functools import lru_cache
from typing import Final, TypeAlias

#: What is taken wherever a length of time is asked for: a timedelta, seconds as a number, or text.
Duration: TypeAlias = timedelta | float | int | str

#: The longest duration, in days: twenty thousand years, so that a point in time plus one fits 64 bits of ms.
MAX_DAYS: Final = 7_304_484


def parse(value: Duration) -> int:
    """Return `value` in whole milliseconds; a number is seconds.

    A rest below one millisecond is rounded up, so that nothing positive becomes zero: ``100us`` is 1.
    A float is first taken to the nearest microsecond, as `timedelta` does, so that 1.1 is 1100 and not 1101.

    Raises:
        ValueError: it is negative, not finite, longer than `MAX_DAYS`, no duration at all, or a bool.
    """
    match value:
        case str():
            return _parse_text(str.__str__(value))
        case timedelta():
            return _from_timedelta(value, value)
        case bool():
            raise _refusal(value, "a bool is not a number of seconds")
        case int() | float():
            # NaN fails both comparisons; infinity and what timedelta cannot hold fail the second.
            if not value >= 0:
                raise _refusal(value, "give seconds that are zero or more")
            if not value <= MAX_DAYS * 86_400:
                raise _refusal(value, _TOO_LONG)
            ms = _from_timedelta(timedelta(seconds=value), value)
            return ms or (1 if value > 0 else 0)
    raise _refusal(value, "give a timedelta, seconds as a number, or text")


def render(ms: int) -> str:
    """Return `ms` as compact friendly text that `parse` reads back, such as ``1d 12h`` or ``0s``."""
    rest = _not_negative(ms)
    parts: list[str] = []
    for unit, size in _PRINTED:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


def render_iso(ms: int) -> str:
    """Return `ms` as ISO 8601 seconds that `parse` reads back, such as ``PT86400S`` or ``PT0.5S``."""
    seconds, rest = divmod(_not_negative(ms), 1000)
    fraction = f".{rest:03}".rstrip("0") if rest else ""
    return f"PT{seconds}{fraction}S"


_NS_PER_MS: Final = 1_000_000
_MAX_MS: Final = MAX_DAYS * 86_400_000
_TOO_LONG: Final = f"stay within {MAX_DAYS} days"

_PRINTED: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))

#: Nanoseconds of every unit word. Both the micro sign and the Greek mu are in use for microseconds.
_UNIT_NS: Final = {
    word: ns
    for ns, words in (
        (604_800_000_000_000, "w wk wks week weeks"),
        (86_400_000_000_000, "d day days"),
        (3_600_000_000_000, "h hr hrs hour hours"),
        (60_000_000_000, "m min mins minute minutes"),
        (1_000_000_000, "s sec secs second seconds"),
        (1_000_000, "ms msec msecs milli millis millisecond milliseconds"),
        (1_000, "us \u00b5s \u03bcs usec usecs micro micros microsecond microseconds"),
        (1, "ns nsec nsecs nano nanos nanosecond nanoseconds"),
    )
    for word in words.split()
}
_HOUR_NS: Final = _UNIT_NS["h"]
_CALENDAR: Final = frozenset({"mo", "mos", "month", "months", "y", "yr", "yrs", "year", "years"})

_NUMBER: Final = r"[0-9]{1,21}(?:[.,][0-9]{1,9})?"
_CLOCK: Final = r"([0-9]{1,21}):([0-9]{1,21}):([0-9]{1,21}(?:[.,][0-9]{1,9})?)"
_PART: Final = rf"{_NUMBER}\s*[a-zA-Z\u00b5\u03bc]+"

_FRIENDLY: Final = re.compile(rf"\+?(?:{_PART}(?:,\s+|\s*)(?=[0-9]))*(?:{_PART}|{_CLOCK})\s*", re.ASCII)
_ISO: Final = re.compile(
    rf"\+?P(?=[0-9T])(?:{_NUMBER}W)?(?:{_NUMBER}D)?"
    rf"(?:T(?=[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?",
    re.ASCII | re.IGNORECASE,
)
_EACH_CLOCK: Final = re.compile(_CLOCK)
_EACH_PART: Final = re.compile(r"([0-9]+)(?:[.,]([0-9]+))?\s*([a-zA-Z\u00b5\u03bc]+)", re.ASCII)


@lru_cache(maxsize=256)
def _parse_text(text: str) -> int:
    if text == "0":
        return 0
    if _FRIENDLY.fullmatch(text):
        spelled = _EACH_CLOCK.sub(r"\1h\2m\3s", text)
    elif _ISO.fullmatch(text):
        spelled = text.lower().replace("t", " ")
    else:
        raise _refusal(text, _way_out(text))

    total_ns = 0
    previous_ns: int | None = None
    fraction_seen = False
    for whole, fraction, unit in _EACH_PART.findall(spelled):
        unit_ns = _UNIT_NS.get(unit)
        if unit_ns is None:
            raise _refusal(text, _way_out_of_unit(unit))
        if fraction_seen:
            raise _refusal(text, "only the last number may have a fraction")
        if previous_ns is not None and previous_ns <= unit_ns:
            raise _refusal(text, "write units from largest to smallest, each once")
        total_ns += int(whole) * unit_ns
        if fraction:
            if unit_ns > _HOUR_NS:
                raise _refusal(text, "only hours and smaller may have a fraction: write 1d 12h, not 1.5d")
            total_ns += _ceil_div(int(fraction) * unit_ns, 10 ** len(fraction))
            fraction_seen = True
        previous_ns = unit_ns

    ms = _ceil_div(total_ns, _NS_PER_MS)
    if ms > _MAX_MS:
        raise _refusal(text, _TOO_LONG)
    return ms


def _from_timedelta(delta: timedelta, given: object) -> int:
    if delta < timedelta(0):
        raise _refusal(given, "a duration cannot be negative")
    if delta > timedelta(days=MAX_DAYS):
        raise _refusal(given, _TOO_LONG)
    return -(-delta // timedelta(milliseconds=1))


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _not_negative(ms: int) -> int:
    if ms < 0:
        raise ValueError(f"expected milliseconds that are zero or more, found {ms}: a duration cannot be negative")
    return ms


def _way_out(text: str) -> str:
    if text[:1].isspace():
        return "remove the leading space"
    if text.startswith("-") or text.rstrip().endswith("ago"):
        return "a duration cannot be negative"
    if text.isdecimal():
        return "add a unit, such as s for seconds"
    if re.match(r"\+?p[0-9]+[my]", text, re.IGNORECASE):
        return "months and years have no fixed length, use days or smaller"
    return "write numbers each with a unit (w d h m s ms us ns), ISO 8601, or H:MM:SS"


def _way_out_of_unit(unit: str) -> str:
    if unit.lower() in _CALENDAR:
        return "months and years have no fixed length, use days or smaller"
    if unit.lower() in _UNIT_NS:
        return f"write units in lower case: {unit.lower()}"
    return f"there is no unit {unit[:20]!r}, use one of w d h m s ms us ns"


def _refusal(found: object, way_out: str) -> ValueError:
    shown = repr(found)
    if len(shown) > 60:
        shown = f"{shown[:57]}..."
    return ValueError(f"expected a duration such as '1h 30m', '500ms' or 'PT5M', found {shown}: {way_out}")
