"""What RFC 3339 has no room for is written as RFC 9557 has it: "2026-07-01T12:00:00+02:00[Europe/Berlin]".

In brackets stands what the offset does not tell: the name of a time zone, and `fold` where it does not follow from
the offset, as `[_fold=1]`. A time of day in a zone is "12:00:00[Europe/Berlin]". Nothing else has brackets.
"""

import datetime
import re
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

_BRACKETS: Final = re.compile(rb'[\dZz]\[[^"\[\]]+\](?:\[[^"\[\]]+\])*"').search  # a JSON text may escape a slash

#: What may be a date with a time, or a time, in what is written.
may_be_in = re.compile(rb'"(?:[-+]?\d{4}-\d\d-\d\dT)?\d\d:\d\d:\d\d').search

#: Types of their own, for msgspec.
KINDS: Final = (datetime.datetime, datetime.time)

_BRACKETED: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])+)")
_SECONDS: Final = re.compile(r"[+-]\d\d:\d\d:\d\d(?:\.\d+)?$")
_OFFSET: Final = re.compile(r"[+-]\d\d:\d\d")
_SET: Final = re.compile(r"_?[a-z][a-z0-9_-]*=")
_MINUTE: Final = datetime.timedelta(minutes=1)


def brackets_in(data: bytes) -> bool:
    """Whether bytes may hold a moment that has brackets."""
    return b']"' in data and _BRACKETS(data) is not None


def written(value: Any) -> Any:
    """Its text, where the text that every moment has would lose something; otherwise the value.

    Raises `ValueError` for an offset that is no number of minutes, where no zone's name says what it is.
    """
    zone = value.tzinfo
    name = zone.key if isinstance(zone, ZoneInfo) else None
    if value.fold == 0 and name is None:
        if zone is not None and (value.utcoffset() or _MINUTE) % _MINUTE:
            raise ValueError(f"the offset {value.utcoffset()} is no number of minutes")
        return value
    text = value.isoformat() + ("" if name is None else f"[{name}]")
    if value.fold and read(text, type(value)).fold == 0:
        text += "[_fold=1]"
    return text if text.endswith("]") else value


def read(text: str, kind: type) -> Any:
    """What `written` wrote. Raises `ValueError`."""
    parsed = _BRACKETED.fullmatch(text)
    if parsed is None:
        return _plain(text, kind)
    moment = _plain(parsed[1], kind)
    fold, zone = 0, None
    for said in parsed[2][1:-1].split("]["):
        must, said = said.startswith("!"), said.removeprefix("!")
        if _SET.match(said):
            if said == "_fold=1":
                fold = 1
            elif must:
                raise ValueError(f"nobody here knows what [!{said}] is")
        elif not _OFFSET.fullmatch(said):
            zone = _zone(said)
    if zone is not None:
        moment = _in_zone(moment, zone)
    return moment.replace(fold=1) if fold else moment


def _plain(text: str, kind: type) -> Any:
    if _SECONDS.search(text):  # of a zone, before its time was one of minutes
        return kind.fromisoformat(text)  # type: ignore[attr-defined]
    return msgspec.convert(text, kind)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except Exception as exc:
        raise ValueError(
            f"there is no time zone {name!r} here: is it misspelled, or are the data missing (the package tzdata)?"
        ) from exc


def _in_zone(moment: Any, zone: ZoneInfo) -> Any:
    """The same time of day, where the zone has it with that offset; otherwise the same moment, at another time."""
    if isinstance(moment, datetime.time) or moment.tzinfo is None:
        return moment.replace(tzinfo=zone)
    offset = moment.utcoffset()
    for fold in (0, 1):
        local = moment.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == offset:
            return local
    return moment.astimezone(zone)
