"""C-091: what a class keeps beside what is written is compared, whatever its shape, and nothing of the class runs."""

import asyncio
import functools
import itertools
from dataclasses import dataclass, field
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from durable import Engine, SerializationError, Workflow, WorkflowContext, handler
from durable.serde import serde_for
from durable.testing import MemoryStore
from tests.values.table import Noted, noted


@dataclass
class Node:
    name: str
    children: list["Node"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._note = ""
        for child in self.children:
            child._parent = self  # type: ignore[attr-defined]
            child._siblings = self.children  # type: ignore[attr-defined]
        for child, following in itertools.pairwise(self.children):
            child._following = following  # type: ignore[attr-defined]


class Branch(pydantic.BaseModel):
    name: str
    children: list["Branch"] = []
    _parent: Any = None
    _note: str = ""

    def model_post_init(self, context: Any, /) -> None:
        for child in self.children:
            child._parent = self


class Held(msgspec.Struct):
    notes: list[Noted]


TREES: list[Any] = [
    Node("root", [Node("a", [Node("b")]), Node("c")]),
    Node("root", [Node(str(place)) for place in range(2000)]),
    Branch(name="root", children=[Branch(name="a", children=[Branch(name="b")]), Branch(name="c")]),
]


@pytest.mark.parametrize("tree", TREES, ids=["dataclass", "many children", "pydantic"])
def test_a_tree_whose_nodes_know_their_parents_comes_back(tree: Any) -> None:
    serde = serde_for(type(tree))
    back = serde.decode(serde.encode(tree))
    assert back.children[0]._parent is back
    assert [one.name for one in back.children] == [one.name for one in tree.children]


@pytest.mark.parametrize(
    "make", [lambda: Node("r", [Node("c")]), lambda: Branch(name="r", children=[Branch(name="c")])]
)
def test_what_is_lost_in_a_tree_is_named_though_it_is_circular(make: Any) -> None:
    tree = make()
    tree.children[0]._note = "kept beside the fields"
    with pytest.raises(SerializationError, match=r"it\.children\[0\]\._note would come back as another value"):
        serde_for(type(tree)).encode(tree)


def test_a_step_returns_a_tree_whose_nodes_know_their_parents() -> None:
    ran = []

    async def step() -> Node:
        ran.append("step")
        return Node("r", [Node("c")])

    class Trees(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            tree = await ctx.run(step)
            parent: Node = tree.children[0]._parent  # type: ignore[attr-defined]
            return parent.name

    async def story() -> None:
        async with Engine(services=[Trees()], store=MemoryStore()) as engine:
            assert await engine.call(Trees.run, key="k") == "r"

    asyncio.run(story())
    assert ran == ["step"]


def test_what_is_lost_in_a_record_inside_of_a_struct_is_found() -> None:
    assert serde_for(Held).decode(serde_for(Held).encode(Held([Noted("a")]))) == Held([Noted("a")])
    with pytest.raises(SerializationError, match=r"it\.notes\[0\]\._note would come back"):
        serde_for(Held).encode(Held([noted()]))


COUNTS = {"computed": 0, "asked": 0}


@attrs.define
class Computing:
    width: int

    @functools.cached_property
    def computed(self) -> int:
        COUNTS["computed"] += 1
        return self.width * 2

    @functools.cached_property
    def broken(self) -> int:
        raise RuntimeError("not now")

    @property
    def asked(self) -> int:
        COUNTS["asked"] += 1
        raise RuntimeError("not now")


@attrs.define
class Deeper(Computing):
    depth: int = 0

    @functools.cached_property
    def computed(self) -> int:
        COUNTS["computed"] += 1
        return self.depth


@dataclass(slots=True)
class Slotted:
    width: int

    def __getattr__(self, name: str) -> Any:
        COUNTS["asked"] += 1
        raise RuntimeError("not now")


@pytest.mark.parametrize("value", [Computing(1), Deeper(1, 2), Slotted(1)], ids=lambda value: type(value).__name__)
def test_no_property_runs_because_a_value_is_looked_at(value: Any) -> None:
    COUNTS.update(computed=0, asked=0)
    serde = serde_for(type(value))
    assert serde.decode(serde.encode(value)) == value
    assert COUNTS == {"computed": 0, "asked": 0}


@pytest.mark.parametrize("value", [Computing(1), Deeper(1, 2)], ids=lambda value: type(value).__name__)
def test_what_a_slotted_attrs_class_has_computed_is_no_part_of_its_value(value: Any) -> None:
    serde = serde_for(type(value))
    expected = value.computed
    COUNTS["computed"] = 0
    back = serde.decode(serde.encode(value))
    assert COUNTS["computed"] == 0
    assert back.computed == expected
