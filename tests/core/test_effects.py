"""What a turn leads to: nothing of it is overlooked."""

from typing import Any, get_args

import msgspec
import pytest

from durable.core import commands
from durable.core.effects import Need, Writes
from durable.core.settle import _APPLY

#: One value a field, for every type a field of `Writes` or `Need` has.
SOMETHING: dict[type, Any] = {dict: {1: None}, list: [None], set: {None}, int: 1}


def fields(struct: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(struct)]


def with_one(struct: type[msgspec.Struct], name: str) -> Any:
    """An empty struct but for one field."""
    empty = getattr(struct(), name)
    return struct(**{name: SOMETHING[int if empty is None else type(empty)]})


@pytest.mark.parametrize("name", fields(Writes))
def test_a_turn_that_writes_but_one_thing_is_committed(name: str) -> None:
    assert with_one(Writes, name)
    assert not Writes()


@pytest.mark.parametrize("name", fields(Need))
def test_a_turn_that_needs_but_one_thing_loads_it(name: str) -> None:
    assert with_one(Need, name)
    assert not Need()


def test_every_command_has_somebody_who_settles_it() -> None:
    assert set(get_args(commands.Command)) == set(_APPLY)
