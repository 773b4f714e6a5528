"""Subclasses of `TerminalError` on their way through the journal: of which class an error is, and what it has.

Written are the names of module and class, and each attribute as a value of its own: by its annotation in the class
body, or in `__init__` where a parameter has its name, otherwise untyped. An error is made again without `__init__`,
whose parameters nobody knows, and only of a class that the process has: nothing is imported.
"""

import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from durable import errors, log
from durable.errors import TerminalError
from durable.serde import serde_for, writer

#: What every error has, and is stored by itself.
_OWN: Final = frozenset({"args", "class_name", "code", "message", "metadata"})


class Attributes(msgspec.Struct, frozen=True):
    """Those of one error, by name."""

    #: As JSON.
    texts: dict[str, msgspec.Raw] = {}
    #: What its serializer does not write as JSON.
    raw: dict[str, bytes] = {}


def name_of(kind: type[TerminalError]) -> str:
    """`module:Class`, as the class is found again."""
    return f"{kind.__module__}:{kind.__qualname__}"


def find(name: str, base: type[TerminalError]) -> type[TerminalError] | None:
    """The subclass of `base` that has this name: the last one made, where a function makes them anew each time.

    A module that runs as the program is `__main__` there and has another name elsewhere: then the class's name is
    enough, if only one has it.
    """
    module, _, qualname = name.partition(":")
    exact: type[TerminalError] | None = None
    alike: list[type[TerminalError]] = []
    for kind in _subclasses(base):
        if kind.__qualname__ != qualname:
            continue
        if kind.__module__ == module:
            exact = kind
        elif "__main__" in (module, kind.__module__):
            alike.append(kind)
    return exact or (alike[0] if len(alike) == 1 else None)


def attributes_of(error: TerminalError, size_max: int) -> Attributes:
    """What it has beyond what every error has. What cannot be stored is left out, and the log says so."""
    texts: dict[str, msgspec.Raw] = {}
    raw: dict[str, bytes] = {}
    lost: list[str] = []
    size = 0
    own = {name: value for name, value in errors.attributes_of(error).items() if name not in _OWN}
    hints = _hints(type(error)) if own else {}
    for name, value in own.items():
        written = _written(hints.get(name, Any), value)
        if written is None or size + len(name) + len(written[0]) > size_max:
            lost.append(name)
            continue
        size += len(name) + len(written[0])
        if written[1]:
            texts[name] = msgspec.Raw(written[0])
        else:
            raw[name] = written[0]
    if lost:
        log.invocation.warning(
            "%s: the attributes %s cannot be stored (no JSON form is known, or they are more than %s bytes): whoever "
            "gets this error gets it without them",
            name_of(type(error)),
            ", ".join(sorted(lost)),
            size_max,
        )
    return Attributes(texts, raw)


def made(
    kind: type[TerminalError], message: str, code: int, metadata: Mapping[str, str], attributes: Attributes
) -> TerminalError:
    """An error of this class. Its `args` are the message alone."""
    values: dict[str, Any] = {"message": message, "code": code, "metadata": dict(metadata)}
    given = {**attributes.texts, **attributes.raw}
    hints = _hints(kind) if given else {}
    for name, data in given.items():
        if name not in _OWN:
            values[name] = _read(hints.get(name, Any), bytes(data))
    return errors.made(kind, (message,), values)


def _hints(kind: type[TerminalError]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for where in (kind.__init__, kind):
        try:
            found.update(typing.get_type_hints(where, include_extras=True))
        except Exception:  # a name that does not resolve: untyped, then
            continue
    return found


def _written(hint: Any, value: Any) -> tuple[bytes, bool] | None:
    """Its bytes, and whether they are JSON."""
    for one in (hint, Any):
        try:
            data = writer(one).encode(value)
        except Exception:
            continue
        return data, _is_json(data)
    return None


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except Exception:
        return False
    return True


def _read(hint: Any, data: bytes) -> Any:
    """The value, by its annotation where that fits."""
    for one in (hint, Any):
        try:
            return serde_for(one).decode(data)
        except Exception:
            continue
    return None


def _subclasses(base: type[TerminalError]) -> Iterator[type[TerminalError]]:
    todo, seen = [base], {base}
    while todo:
        kind = todo.pop(0)
        yield kind
        for one in type.__subclasses__(kind):
            if one not in seen:
                seen.add(one)
                todo.append(one)
