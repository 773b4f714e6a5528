"""What an annotation is made of, as its author wrote it: with what stands in `Annotated`."""

import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any

import msgspec


def parts(annotation: Any, *, structs: bool) -> list[Any]:
    """What stands in it: arguments, and the fields of a class; of Structs and attrs classes only with `structs`."""
    annotation = getattr(annotation, "__value__", annotation)  # of a `type` alias
    found = list(typing.get_args(annotation))
    origin = typing.get_origin(annotation) or annotation
    # a TypedDict may be one of typing_extensions: that has required keys, too
    known = is_dataclass(origin) or hasattr(origin, "__required_keys__") or hasattr(origin, "_fields")
    if known or (structs and _has_fields(origin)):
        with suppress(Exception):  # a name that does not resolve is reported by msgspec
            found += typing.get_type_hints(origin, include_extras=True).values()
    return found


def below(annotation: Any) -> Iterator[Any]:
    """Everything that stands in an annotation, at any depth, but not itself."""
    todo = parts(annotation, structs=True)
    seen = {id(annotation): annotation}  # which keeps it: no other has its id
    while todo:
        part = todo.pop()
        yield part
        if id(part) not in seen:
            seen[id(part)] = part
            todo += parts(part, structs=True)


def _has_fields(kind: Any) -> bool:
    marks = "__attrs_attrs__", "__pydantic_core_schema__"
    return isinstance(kind, type) and (issubclass(kind, msgspec.Struct) or any(hasattr(kind, mark) for mark in marks))
