"""Moments as they travel."""

from datetime import UTC, datetime

#: The calendar repeats after so many days, which are 400 years.
_CYCLE_MS = 146_097 * 86_400_000
#: The first moment of the year 9600: from there on `datetime` is helped.
_FAR_MS = 240_779_520_000_000


def instant(ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond; a year above 9999 (a delay may be that long) has a plus sign before it."""
    cycles = 0 if ms < _FAR_MS else (ms - _FAR_MS) // _CYCLE_MS + 1
    moment = datetime.fromtimestamp((ms - cycles * _CYCLE_MS) // 1000, UTC)
    year = moment.year + 400 * cycles
    return f"{'+' if year > 9999 else ''}{year:04}-{moment:%m-%dT%H:%M:%S}.{ms % 1000:03}Z"
