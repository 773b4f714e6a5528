"""Time zones in pydantic models. pydantic writes their offsets and would read no names: both are done around it.

What is written says more than pydantic does, where its own text is that of a moment. What is read is given to
pydantic without the brackets that it stumbled over; then the moments that came of it get their zones.
"""

import dataclasses
import decimal
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from durable.serde import moments
from durable.serde.forms import model_fields
from durable.serde.moments import KINDS

#: All digits of a number are kept.
_parse: Final = msgspec.json.Decoder(float_hook=decimal.Decimal).decode
_write: Final = msgspec.json.Encoder(decimal_format="number").encode


def with_zones(write: Callable[[Any], bytes], plain: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """What writes names of zones too; `plain` gives the same value in dicts and lists, with its moments."""

    def zoned(value: Any) -> bytes:
        data = write(value)
        if moments.may_be_in(data):
            tree = _parse(data)
            told = named(plain(value), tree)
            if told is not tree:
                return _write(told)
        return data

    return zoned


def reading_zones(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """What reads them too."""

    def zoned(data: bytes) -> Any:
        try:
            return read(data)
        except Exception as exc:
            texts = _stumbled_over(exc) if moments.brackets_in(data) else {}
            if not texts:
                raise
        tree = _parse(data)
        return _restored(read(_write(_without(tree, texts))), tree, texts)

    return zoned


def named(value: Any, tree: Any) -> Any:
    """The JSON of a value, with the text of its moments where that is another than usual; or the same object."""
    if isinstance(value, dict) and isinstance(tree, dict) and len(value) == len(tree):
        pairs = zip(value.items(), tree.items(), strict=True)
        told = {named(key, name): named(part, other) for (key, part), (name, other) in pairs}
        return tree if list(told.items()) == list(tree.items()) else told
    if (
        isinstance(value, list | tuple | set | frozenset | deque)
        and isinstance(tree, list)
        and len(value) == len(tree)
    ):
        parts = [named(part, other) for part, other in zip(value, tree, strict=True)]
        return tree if parts == tree else parts
    if type(value) in KINDS and isinstance(tree, str):
        return _text(value, tree)
    return tree


def _text(value: Any, usual: str) -> str:
    try:
        text = moments.written(value)
        same = isinstance(text, str) and moments.read(usual, type(value)).replace(tzinfo=None) == value.replace(
            tzinfo=None, fold=0
        )
    except ValueError:  # it is written in a way of its own
        return usual
    return cast(str, text) if same else usual


def _stumbled_over(exc: Exception) -> dict[str, str]:
    """The moments in brackets that pydantic could not read, and what it can."""
    from pydantic import ValidationError

    errors = exc.errors(include_url=False) if isinstance(exc, ValidationError) else ()
    said = {one["input"] for one in errors if one["type"].startswith(("datetime_", "time_"))}
    return {text: text.partition("[")[0] for text in said if isinstance(text, str) and text.endswith("]")}


def _without(tree: Any, texts: dict[str, str]) -> Any:
    if isinstance(tree, dict):
        return {texts.get(name, name): _without(part, texts) for name, part in tree.items()}
    if isinstance(tree, list):
        return [_without(part, texts) for part in tree]
    return texts.get(tree, tree) if isinstance(tree, str) else tree


def _restored(value: Any, tree: Any, texts: dict[str, str]) -> Any:
    """What was read, with the zones that its JSON names: in place, where it can be."""
    if isinstance(tree, str):
        return _zoned(value, tree, texts)
    if getattr(type(value), "__pydantic_root_model__", False):
        value.__dict__["root"] = _restored(value.root, tree, texts)
    elif isinstance(tree, list):
        return _of_list(value, tree, texts)
    elif isinstance(tree, dict):
        if isinstance(value, dict):
            return _of_dict(value, tree, texts)
        for name, key in _keys(type(value)).items():
            if key in tree and hasattr(value, name):
                part = getattr(value, name)
                told = _restored(part, tree[key], texts)
                if told is not part:
                    _put(value, name, told)
        if extra := getattr(value, "__pydantic_extra__", None):
            _of_dict(extra, {name: part for name, part in tree.items() if name in extra}, texts)
    return value


def _zoned(value: Any, text: str, texts: dict[str, str]) -> Any:
    """One moment; or text, which was not meant."""
    if text not in texts:
        return value
    if type(value) in KINDS and value == moments.read(texts[text], type(value)):
        return moments.read(text, type(value))
    return text if value == texts[text] else value


def _of_list(value: Any, tree: list[Any], texts: dict[str, str]) -> Any:
    if isinstance(value, set | frozenset):  # they are in no order
        return type(value)(next((one for text in tree if (one := _zoned(part, text, texts)) is not part), part)
                           for part in value) if all(isinstance(text, str) for text in tree) else value  # fmt: skip
    if not isinstance(value, list | tuple | deque) or len(value) != len(tree):
        return value
    parts = [_restored(part, other, texts) for part, other in zip(value, tree, strict=True)]
    if isinstance(value, tuple):
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)
    for place, part in enumerate(parts):
        value[place] = part
    return value


def _of_dict(value: dict[Any, Any], tree: dict[str, Any], texts: dict[str, str]) -> dict[Any, Any]:
    if all(name in value for name in tree):
        for name, other in tree.items():
            value[name] = _restored(value[name], other, texts)
    elif len(value) == len(tree):  # keys that are no text
        pairs = list(zip(value.items(), tree.items(), strict=True))
        value.clear()
        for (key, part), (name, other) in pairs:
            value[_restored(key, name, texts)] = _restored(part, other, texts)
    return value


def _keys(kind: Any) -> dict[str, str]:
    """Under which names its fields are written."""
    if hasattr(kind, "__pydantic_core_schema__"):
        return {name: one.serialization_alias or one.alias or name for name, one in model_fields(kind).items()}
    return {one.name: one.name for one in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}


def _put(value: Any, name: str, part: Any) -> None:
    """Set it as a validator would, also where it is frozen."""
    if name in getattr(value, "__dict__", ()):
        value.__dict__[name] = part
    else:
        object.__setattr__(value, name, part)
