"""What steps are asked with, so that a simulation sees whether a replay asks for the same.

The engine stores no arguments: a replay returns what is recorded, whatever a step is asked with. So a handler that
passes on a random number seems to work; but what it goes on with is not what the step was done with. Compared is only
what certainly is data (what JSON can be written of). A context, a client, a function, a mock may be another object
after a crash and mean the same.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from durable.core.ids import fingerprint

#: So much of an argument is shown.
SHOWN_MAX = 80


class Data(msgspec.Struct, frozen=True):
    """An argument that is data."""

    #: As JSON, perhaps cut.
    shown: str
    #: Stands for all of it.
    print: bytes


class Asked(msgspec.Struct, frozen=True):
    """What a step was asked with: by position ("0") or name; None stands for what cannot be compared."""

    attempt: int
    arguments: Mapping[str, Data | None]


def asked(fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], attempt: int) -> Asked:
    """Taken now: what they are made of may change later."""
    while isinstance(fn, functools.partial):
        fn, args, kwargs = fn.func, (*fn.args, *args), {**fn.keywords, **kwargs}
    named = {**{str(at): one for at, one in enumerate(args)}, **kwargs}
    return Asked(attempt, {name: _data(one) for name, one in named.items()})


def differences(before: Asked, now: Asked) -> Iterator[str]:
    """What is certainly different, in words."""
    for name in {**before.arguments, **now.arguments}:
        one, other = before.arguments.get(name, _NONE), now.arguments.get(name, _NONE)
        if one is None or other is None or one.print == other.print:
            continue
        if (one.shown, other.shown) == (str(before.attempt), str(now.attempt)):
            continue  # `ctx.request.attempt`, which is another one each time
        which = f"argument {int(name) + 1}" if name.isdecimal() else f"the argument {name!r}"
        yield f"{which} was {one.shown} and is {other.shown}"


_NONE = Data("missing", b"")


def _data(value: Any) -> Data | None:
    try:
        written = _ENCODER.encode(value)
    except Exception:  # whatever a model of the user's raises
        return None
    text = written[: SHOWN_MAX * 4].decode("utf-8", "replace")
    return Data(text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 1]}…", fingerprint(written))


def _fields_of(value: Any) -> Any:
    """A pydantic model; everything else that msgspec does not know is no data."""
    if callable(dump := getattr(type(value), "model_dump", None)) and hasattr(type(value), "model_fields"):
        return dump(value)
    raise NotImplementedError


_ENCODER = msgspec.json.Encoder(enc_hook=_fields_of, order="sorted")
