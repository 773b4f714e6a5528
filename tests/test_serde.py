"""Every kind of value goes to bytes and back; everything else is refused with a reason, and nothing crashes."""

import collections.abc
import dataclasses
import datetime as dt
import enum
import functools
import gc
import json
import math
import subprocess
import sys
import threading
import time
import typing
import uuid
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.errors import SerializationError
from durable.serde import (
    ANY,
    ANY_READER,
    MAX_DEPTH,
    MAX_DEPTH_PYDANTIC,
    Serde,
    serde_for,
)
from durable.signature import REQUIRED, Signature, return_annotation, signature_of

if TYPE_CHECKING:
    from nowhere import Ghost  # type: ignore[import-not-found]


class Point(msgspec.Struct):
    x: int
    note: str | None = None


class Tree(msgspec.Struct):
    children: list["Tree"] = []


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


T = typing.TypeVar("T")


class Page(msgspec.Struct, typing.Generic[T]):
    items: list[T]


@dataclasses.dataclass
class Order:
    id: str
    lines: list[Point]
    paid: bool = False


class Config(TypedDict):
    name: str
    tags: set[str]


class Pair(NamedTuple):
    left: int
    right: bytes


@attrs.define
class Parcel:
    weight: Decimal
    sent_at: dt.datetime


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


class User(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(alias="userName")
    born: dt.date

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.name.upper()


class Folder(pydantic.BaseModel):
    folders: list["Folder"] = []


@pydantic.dataclasses.dataclass
class Stamp:
    value: int


@dataclasses.dataclass
class Team:
    users: list[User]
    lead: User | None = None


class Opaque:
    pass


class Loud:
    __slots__ = ("__dict__",)

    @property
    def __dataclass_fields__(self) -> Any:
        raise RuntimeError("no \ud800 fields")


@dataclasses.dataclass
class Picky:
    age: int

    def __post_init__(self) -> None:
        if self.age < 0:
            raise LookupError("too young")


UserId = NewType("UserId", int)
Blob = NewType("Blob", bytes)
ADA = User(userName="Ada", born=dt.date(1815, 12, 10))
NOON = dt.datetime(2026, 2, 28, 12, 0, 0, 123456, tzinfo=dt.UTC)
ROT = Serde[str](lambda text: text[::-1].encode(), lambda data: data.decode()[::-1], "text/x-reversed")

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (int, 0),
    (int, -(2**70)),
    (int, 10**4000),
    (bool, False),
    (float, 0.0),
    (float, 1e-300),
    (str, ""),
    (str, "snow ☃ \x00 \U0001f600"),
    (None, None),
    (type(None), None),
    (bytes, b""),
    (bytes, b"\x00\xff{"),
    (bytearray, bytearray(b"ab")),
    (Annotated[bytes, "metadata"], b"\xff"),
    (Blob, b"\xff"),
    (bytes | None, b""),
    (bytes | None, None),
    (list[int], []),
    (dict[str, int], {}),
    (list, [1, "a", None]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], ()),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, Point], {1: Point(1)}),
    (dict[str, object], {"a": [1, None]}),
    (Optional[Point], None),  # noqa: UP045
    (Point | None, Point(1, "a")),
    (int | str | None, "1"),
    (Cat | Dog, Dog("rex")),
    (Page[Point], Page([Point(1)])),
    (Tree, Tree([Tree(), Tree([Tree()])])),
    (Order, Order("a", [Point(1)], True)),
    (Config, {"name": "a", "tags": {"x"}}),
    (Pair, Pair(1, b"\x00")),
    (Parcel, Parcel(Decimal("1.10"), NOON)),
    (Color, Color.RED),
    (Level, Level.LOW | Level.HIGH),
    (Literal[1, 2], 1),
    (UserId, UserId(7)),
    (dt.datetime, NOON),
    (dt.datetime, dt.datetime(2026, 1, 1)),
    (dt.date, dt.date(2026, 1, 1)),
    (dt.time, dt.time(1, 2, 3)),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
    (uuid.UUID, uuid.UUID(int=5)),
    (Decimal, Decimal("1e400")),
    (Annotated[int, msgspec.Meta(ge=0)], 3),
    (Annotated[int, []], 3),  # an annotation that cannot be hashed
    (User, ADA),
    (list[User], [ADA]),
    (list[User], []),
    (User | None, None),
    (User | int, 4),
    (Folder, Folder(folders=[Folder()])),
    (Stamp, Stamp(3)),
    (Team, Team([ADA], ADA)),
    (Annotated[int, pydantic.Field(gt=0)], 4),
    (Annotated[str, ROT], "abc"),
    (Any, None),
    (Any, False),
    (Any, 0),
    (Any, ""),
    (Any, b""),
    (Any, b"\x00null"),
    (Any, [1, {"a": None}]),
    (object, b"raw"),
    (T, {"a": 1.5}),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=lambda value: repr(value)[:40])
def test_a_value_comes_back_equal_and_of_the_same_type(annotation: Any, value: Any) -> None:
    serde = serde_for(annotation)
    back = serde.decode(serde.encode(value))
    assert back == value
    assert type(back) is type(value)


def test_without_an_annotation_a_value_comes_back_as_plain_json() -> None:
    for value, back in [(Point(1), {"x": 1, "note": None}), ((1, 2), [1, 2]), ({3}, [3])]:
        assert ANY.decode(ANY.encode(value)) == back
    for value in ({"b": b"x"}, [dt.date(2026, 1, 1)], {1: "a"}, [Color.RED], Point(1, note=Decimal(1))):  # type: ignore[arg-type]
        with pytest.raises(SerializationError, match="would come back as a `str`"):
            ANY.encode(value)


def test_who_does_not_know_the_reader_writes_what_any_reader_can_read() -> None:
    for value, kind in [(b"x", bytes), ({1: dt.date(2026, 1, 1)}, dict[int, dt.date]), ((Color.RED,), list[Color])]:
        assert ANY.decode(ANY_READER.encode({"a": value})) != {"a": value}
        read = serde_for(dict[str, kind]).decode(ANY_READER.encode({"a": value}))  # type: ignore[valid-type]
        assert read["a"] == (list(value) if isinstance(value, tuple) else value)
    for lost in ({1: "a", "1": "b"}, pydantic.SecretStr("x")):
        with pytest.raises(SerializationError):
            ANY_READER.encode({"a": [lost]})
    assert ANY.decode(ANY_READER.encode({"b": b"x"})) == {"b": "eA=="}


def test_bytes_without_an_annotation_stay_bytes() -> None:
    assert ANY.decode(ANY.encode(bytearray(b"ab"))) == b"ab"
    assert ANY.decode(b"") is None
    assert serde_for(REQUIRED) is serde_for(Any) is ANY


def test_the_stored_form_and_content_type_follow_the_annotation() -> None:
    assert (serde_for(bytes).encode(b"raw"), serde_for(bytes).content_type) == (b"raw", "application/octet-stream")
    assert (serde_for(None).encode(None), serde_for(None).content_type) == (b"", "")
    assert (serde_for(Point).encode(Point(1)), serde_for(Point).content_type) == (
        b'{"x":1,"note":null}',
        "application/json",
    )
    assert serde_for(User).encode(ADA) == b'{"userName":"Ada","born":"1815-12-10"}'
    assert serde_for(Annotated[str, ROT]) is ROT
    assert serde_for(None).decode(b"null") is None
    assert serde_for(Point) is serde_for(Point)


def test_schemas_are_derived_where_there_is_one() -> None:
    assert serde_for(int).schema() == {"type": "integer"}
    assert serde_for(None).schema() == {"type": "null"}
    assert ANY.schema() == {}
    user = serde_for(User).schema()
    assert user is not None and list(user["properties"]) == ["userName", "born"]
    assert serde_for(bytes).schema() is None
    assert ROT.schema() is None


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(found := schema.get("$ref"), str):
            yield found
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            yield from references(inner)


@pytest.mark.parametrize("annotation", [annotation for annotation, _ in ROUND_TRIPS], ids=lambda one: repr(one)[:40])
def test_a_schema_is_a_document_of_its_own(annotation: Any) -> None:
    schema = serde_for(annotation).schema()
    assert (schema is None) == (serde_for(annotation).content_type not in ("", "application/json"))
    for reference in references(schema):
        where, _, name = reference.rpartition("/")
        assert schema is not None and where == "#/$defs" and name in schema["$defs"]


class Envelope(msgspec.Struct):
    """What comes over the wire."""

    body: object
    parts: list[object] = []


def test_a_schema_says_of_an_object_that_it_can_be_anything() -> None:
    anything = {"description": "any value"}
    assert serde_for(dict[str, object]).schema() == {"type": "object", "additionalProperties": anything}
    envelope = serde_for(Envelope).schema()
    assert envelope is not None
    assert envelope["$defs"]["Envelope"] == {
        "title": "Envelope",
        "description": "What comes over the wire.",
        "type": "object",
        "properties": {"body": anything, "parts": {"type": "array", "items": anything, "default": []}},
        "required": ["body"],
    }


class Ticket(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    seat: int = 1
    note: Any = pydantic.Field(default=Opaque())


class Sealed(pydantic.BaseModel):
    thing: pydantic.InstanceOf[Opaque]


def test_a_default_without_a_json_form_is_left_out_in_silence() -> None:
    ticket = serde_for(Ticket).schema()  # warnings are errors here
    assert ticket is not None
    assert ticket["properties"] == {
        "seat": {"title": "Seat", "type": "integer", "default": 1},
        "note": {"title": "Note"},
    }


def broken() -> dict[str, Any]:
    raise LookupError("no schema today")


def test_what_cannot_be_described_has_no_schema() -> None:
    assert serde_for(Sealed).schema() is None
    for schema in (broken, lambda: {"default": Opaque()}, lambda: "integer"):
        serde = Serde[Any](ROT.encode, ROT.decode, "text/x-reversed", schema)  # type: ignore[arg-type]
        assert (serde.schema(), serde.description()) == (None, "text/x-reversed")


def test_a_schema_is_computed_once_and_belongs_to_who_asked() -> None:
    asked: list[int] = []

    def schema() -> dict[str, Any]:
        asked.append(1)
        return {"type": "string", "examples": ["abc"]}

    serde = Serde[str](ROT.encode, ROT.decode, "text/x-reversed", schema)
    assert not asked
    first = serde.schema()
    assert first is not None
    first["examples"].append("changed")
    assert serde.schema() == {"type": "string", "examples": ["abc"]}
    assert len(asked) == 1


DESCRIPTIONS: list[tuple[Any, str]] = [
    (None, "none"),
    (bytes, "application/octet-stream"),
    (Annotated[str, ROT], "text/x-reversed"),
    (Any, "application/json"),
    (int, "JSON integer"),
    (float, "JSON number"),
    (str, "JSON string"),
    (dt.datetime, "JSON string"),
    (list[Point], "JSON array"),
    (dict[str, object], "JSON object"),
    (int | None, "application/json"),
    (Point, "JSON 'Point'"),
    (Tree, "JSON 'Tree'"),
    (Page[Point], "JSON 'Page[Point]'"),
    (Order, "JSON 'Order'"),
    (Config, "JSON 'Config'"),
    (Pair, "JSON 'Pair'"),
    (Parcel, "JSON 'Parcel'"),
    (Color, "JSON 'Color'"),
    (Literal["a", "b"], "application/json"),
    (Annotated[int, msgspec.Meta(title="Age")], "JSON 'Age'"),
    (User, "JSON 'User'"),
    (Folder, "JSON 'Folder'"),
    (list[User], "JSON array"),
    (Stamp, "JSON 'Stamp'"),
    (Team, "JSON 'Team'"),
    (Sealed, "application/json"),
]


@pytest.mark.parametrize(("annotation", "description"), DESCRIPTIONS, ids=lambda value: repr(value)[:40])
def test_a_type_is_described_in_a_few_words(annotation: Any, description: str) -> None:
    assert serde_for(annotation).description() == description


class Holder(msgspec.Struct):
    thing: "list[Opaque]"


class Lost(msgspec.Struct):
    thing: "Ghost"


def passes_the_cause_on(error: SerializationError) -> bool:
    """What the library said is in the message. How it words that is its own business: no test asserts it."""
    return error.__cause__ is None or type(error.__cause__).__name__ in str(error)


REFUSED: list[tuple[Any, str]] = [
    (Opaque, "cannot store `Opaque`: TypeError: no JSON form is known for `Opaque`"),
    (list[Opaque], "no JSON form is known for `Opaque`"),
    (Holder, "cannot store `Holder`: TypeError: no JSON form is known for `Opaque`"),
    (Lost, "Ghost"),
    (Opaque | int, "Opaque"),
    (dt.date | dt.datetime, "datetime.date | datetime.datetime"),
    (Order | Picky, "Picky"),
    (Iterator[int], "Iterator"),
    (Callable[[], int], "Callable"),
    (complex, "`complex`"),
    (type, "`type`"),
    (ValueError, "`ValueError`"),
    ("Point", "`Point`"),
    (3, "`3`"),
    (User | Point, "Point"),
]


@pytest.mark.parametrize(("annotation", "named"), REFUSED, ids=lambda value: repr(value)[:40])
def test_a_type_that_cannot_be_stored_is_refused_at_declaration(annotation: Any, named: str) -> None:
    with pytest.raises(SerializationError) as caught:
        serde_for(annotation)
    assert str(caught.value).startswith("cannot store `")
    assert named in str(caught.value)
    assert passes_the_cause_on(caught.value)
    assert "Annotated[T, Serde(encode=..., decode=...)]" in str(caught.value)


def test_a_type_that_only_a_newer_msgspec_stores_is_refused_at_declaration_by_an_older_one() -> None:
    mixed = Literal["a", 1]
    try:
        serde = serde_for(mixed)
    except SerializationError as error:
        assert "Literal['a', 1]" in str(error)
    else:
        assert [serde.decode(serde.encode(value)) for value in ("a", 1)] == ["a", 1]


def test_a_pydantic_that_is_too_old_is_named_at_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh(pydantic.BaseModel):
        name: str

    monkeypatch.setattr(pydantic, "VERSION", "2.6.4")
    with pytest.raises(SerializationError, match=r"pydantic 2\.6\.4 is too old, 2\.7 or newer is needed"):
        serde_for(Fresh)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


def numbers() -> Iterator[int]:
    yield 1


UNTYPED = "without an annotation"

UNWRITABLE: list[tuple[Any, Any, str]] = [
    (Any, numbers(), f"of type `generator` {UNTYPED}: "),
    (list[int], numbers(), "of type `generator` annotated as `list[int]`: "),
    (Any, Opaque(), f"of type `Opaque` {UNTYPED}: "),
    (Any, Loud(), f"of type `Loud` {UNTYPED}: "),
    (str, "\ud800", "of type `str` annotated as `str`: "),
    (Any, {"\ud800": 1}, f"of type `dict` {UNTYPED}: "),
    (Any, {(1, 2): 3}, f"of type `dict` {UNTYPED}: "),
    (int, 10**5000, "of type `int` annotated as `int`: "),
    (Any, nested(MAX_DEPTH + 1), "deeper than 200"),
    (Any, nested(50_000), f"of type `list` {UNTYPED}: "),
    (Any, CYCLE, f"of type `list` {UNTYPED}: "),
    (bytes, "text", "it is not bytes"),
    (bytes, 5, "it is not bytes"),
    (None, 5, "promises None"),
    (User, {"userName": "Ada"}, "of type `dict` annotated as `User`: "),
    (list[User], [Point(1)], "User]`: "),
    (list[User], User, "User]`: "),
    (list[User], CYCLE, "User]`: "),
]


@pytest.mark.parametrize(("annotation", "value", "named"), UNWRITABLE, ids=lambda value: f"{type(value).__name__}")
def test_a_value_that_cannot_be_written_is_refused_by_name(annotation: Any, value: Any, named: str) -> None:
    with pytest.raises(SerializationError) as caught:
        serde_for(annotation).encode(value)
    assert named in str(caught.value)
    assert passes_the_cause_on(caught.value)
    assert len(str(caught.value).encode()) < 2000


UNREADABLE: list[tuple[Any, bytes]] = [
    (Point, b'{"x":"a"}'),
    (Point, b"{}"),
    (Point, b""),
    (Any, b"{"),
    (Any, b"[1] 2"),
    (Any, b'"\xff"'),
    (Any, b'"\\ud800"'),
    (Any, b'"\\ud800\\u0041"'),
    (User, b'{"userName":"\\ud800"}'),
    (int, b"1.5"),
    (bool, b"1"),
    (Any, b"1e400"),
    (Any, b"9" * 10**6),
    (int, b"9" * 10**6),
    (User, b'{"userName":' + b"9" * 10**6 + b"}"),
    (float, b"1e" + b"9" * 10**6),
    (Color, b'"blue"'),
    (Annotated[int, msgspec.Meta(ge=0)], b"-1"),
    (Annotated[int, pydantic.Field(gt=0)], b"0"),
    (User, b'{"userName":"Ada"}'),
    (None, b"1"),
    (Picky, b'{"age":-1}'),
]


@pytest.mark.parametrize(("annotation", "data"), UNREADABLE, ids=lambda value: repr(value)[:30])
def test_bytes_that_do_not_fit_are_refused_by_name(annotation: Any, data: bytes) -> None:
    with pytest.raises(SerializationError) as caught:
        serde_for(annotation).decode(data)
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    assert str(caught.value).startswith("cannot read JSON: " if annotation is Any else f"cannot read `{name}`: ")
    assert passes_the_cause_on(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("annotation", "data", "place"),
    [
        (Order, b'{"id":"1","paid":true}', "lines"),
        (User, b'{"userName":"Ada"}', "born"),
        (Picky, b'{"age":-1}', "too young"),
    ],
)
def test_the_place_and_the_reason_are_named(annotation: Any, data: bytes, place: str) -> None:
    with pytest.raises(SerializationError, match=place):
        serde_for(annotation).decode(data)


class Reading(msgspec.Struct):
    values: dict[str, list[float | None]]


@dataclasses.dataclass
class Sample:
    at: float
    note: None = None


class Measured(pydantic.BaseModel):
    value: float = pydantic.Field(alias="v")
    missing: int | None = None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, type("F", (float,), {})("nan")], ids=repr)
@pytest.mark.parametrize(
    ("annotation", "make", "place"),
    [
        (Any, lambda number: number, "it is"),
        (float, lambda number: number, "it is"),
        (float | None, lambda number: number, "it is"),
        (Any, lambda number: {"a": [None, 1.5, {"b": (0, number)}]}, r"it\['a'\]\[2\]\['b'\]\[1\] is"),
        (Reading, lambda number: Reading({"x": [None, number]}), r"it\['values'\]\['x'\]\[1\] is"),
        (Sample, Sample, r"it\['at'\] is"),
        (Any, Sample, r"it\['at'\] is"),
        (Measured, lambda number: Measured(v=number), r"it\['v'\] is"),
        (list[Measured], lambda number: [Measured(v=1), Measured(v=number)], r"it\[1\]\['v'\] is"),
        (Any, lambda number: Measured(v=number), r"it\['v'\] is"),
        (set[float], lambda number: {number}, r"it\[0\] is"),
    ],
)
def test_what_is_no_number_is_never_written_as_null(
    annotation: Any, make: Callable[[float], Any], place: str, number: float
) -> None:
    """JSON has neither NaN nor infinity: a value that came back as None would be another one."""
    with pytest.raises(SerializationError, match=f"{place} .*JSON has neither NaN nor infinity"):
        serde_for(annotation).encode(make(number))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(Any, {"a": None, "null": [1.5]}), (float | None, None), (Any, "null"), (Measured, Measured(v=1.5))],
)
def test_null_itself_is_written(annotation: Any, value: Any) -> None:
    serde = serde_for(annotation)
    assert serde.decode(serde.encode(value)) == value


def subclasses() -> list[tuple[Any, type]]:
    made: list[tuple[Any, type]] = []
    for base, value in (
        (str, ("a",)),
        (int, (7,)),
        (float, (1.5,)),
        (bytes, (b"x",)),
        (dt.datetime, (2026, 2, 28, 12, 0, 0, 5, dt.UTC)),
        (dt.date, (2026, 2, 28)),
        (dt.time, (12, 30, 1, 5)),
        (dt.timedelta, (1, 2, 3)),
        (Decimal, ("1.50",)),
        (uuid.UUID, ("00000000-0000-0000-0000-000000000001",)),
        (list, ([1],)),
        (dict, ({"a": 1},)),
        (tuple, ((1,),)),
    ):

        def shout(self: Any) -> str:
            raise RuntimeError("what a subclass overrides is not asked")

        kind = type(f"My{base.__name__}", (base,), {"__str__": shout, "__repr__": shout, "__format__": shout})
        made.append((kind(*value), base))
    return made


@pytest.mark.parametrize(("value", "base"), subclasses(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_subclass_of_a_builtin_is_written_as_its_base(value: Any, base: type) -> None:
    """Libraries return them: numpy's float, pendulum's datetime, the str of a web framework."""
    plain = base(value) if base in (list, dict, tuple) else value
    for annotation in (base, list[base], dict[str, base] if base is not bytes else base):  # type: ignore[valid-type]
        wrapped = {base: value, list[base]: [value], dict[str, base]: {"k": value}}[annotation]  # type: ignore[valid-type]
        back = serde_for(annotation).decode(serde_for(annotation).encode(wrapped))
        found = back[0] if annotation == list[base] else back["k"] if annotation == dict[str, base] else back  # type: ignore[valid-type]
        assert type(found) is base
        assert found == plain
    assert ANY_READER.encode({"a": [value]}) == ANY_READER.encode({"a": [plain]})


def test_a_pydantic_model_without_an_annotation_is_written_as_pydantic_does() -> None:
    assert ANY.decode(ANY.encode(Measured(v=1.5))) == {"v": 1.5, "missing": None}
    assert ANY.decode(ANY_READER.encode({"a": [ADA]})) == {"a": [{"userName": "Ada", "born": "1815-12-10"}]}


class Created(pydantic.BaseModel):
    id: int


class Deleted(pydantic.BaseModel):
    id: int


@pytest.mark.parametrize(
    ("one", "other", "data", "read"),
    [
        (Created | Deleted, Deleted | Created, b'{"id":1}', (Created, Deleted)),
        (list[Created | Deleted], list[Deleted | Created], b'[{"id":1}]', (Created, Deleted)),
        (
            dict[str, list[Created | Deleted]],
            dict[str, list[Deleted | Created]],
            b'{"a":[{"id":1}]}',
            (Created, Deleted),
        ),
        (
            Annotated[str | int, pydantic.Field(union_mode="left_to_right")],
            Annotated[int | str, pydantic.Field(union_mode="left_to_right")],
            b'"0042"',
            (str, int),
        ),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_the_order_of_a_union_decides_whatever_was_used_before(
    one: Any, other: Any, data: bytes, read: tuple[type, type], first: int
) -> None:
    def inner(value: Any) -> Any:
        while isinstance(value, list | dict):
            value = value[0] if isinstance(value, list) else value["a"]
        return value

    pairs = [(one, read[0]), (other, read[1])]
    for annotation, kind in (pairs[first], pairs[1 - first], pairs[first]):
        assert type(inner(serde_for(annotation).decode(data))) is kind


def test_the_last_of_duplicate_keys_wins() -> None:
    assert ANY.decode(b'{"a":1,"a":2}') == {"a": 2}
    assert serde_for(Point).decode(b'{"x":1,"x":2}') == Point(2)


# --- decode bombs ---------------------------------------------------------------------------------------------------


def decode_bombs() -> None:
    openers: list[tuple[Any, bytes, bytes, bytes]] = [
        (Any, b"[", b"", b"]"),
        (Any, b'{"a":', b"1", b"}"),
        (Any, b'["]",', b"1", b"]"),
        (Any, b'["\\"]\\\\",', b"1", b"]"),
        (Point, b'{"x":1,"other":', b"1", b"}"),
        (Tree, b'{"children":[', b"", b"]}"),
        (Folder, b'{"folders":[', b"", b"]}"),
    ]
    for annotation, left, middle, right in openers:
        serde = serde_for(annotation)
        levels = left.count(b"[") + left.count(b"{")
        limit = MAX_DEPTH_PYDANTIC if annotation is Folder else MAX_DEPTH
        for count in (10, limit // levels, limit // levels + 1, 10_000, 1_000_000):
            for data in (left * count + middle + right * count, left * count):
                started = time.thread_time()
                try:
                    serde.decode(data)
                    assert count * levels <= limit
                except SerializationError as exc:
                    assert count * levels > limit or data == left * count, exc
                    assert "deeper" in str(exc) or str(exc).startswith("cannot read ")
                assert time.thread_time() - started < 1  # measured: below 0.1 s


def test_a_bomb_is_refused_on_a_stack_of_any_size() -> None:
    decode_bombs()
    failures: list[BaseException] = []

    def small() -> None:
        try:
            decode_bombs()
            with pytest.raises(SerializationError):
                ANY.encode(nested(50_000))
        except BaseException as exc:
            failures.append(exc)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=small)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert not failures


def test_large_but_flat_documents_are_read() -> None:
    keys = b"{" + b",".join(b'"k%d":[{}]' % n for n in range(10**5)) + b"}"
    assert len(ANY.decode(keys)) == 10**5
    assert len(ANY.decode(b"[" + b",".join([b'"[[["'] * 10**5) + b"]")) == 10**5
    assert ANY.decode(b'"' + b"[" * 10**6 + b'"') == "[" * 10**6
    assert serde_for(list[Point]).decode(b"[" + b",".join([b'{"x":1}'] * 10**4) + b"]") == [Point(1)] * 10**4
    assert serde_for(Decimal).decode(b'"' + b"9" * 10**6 + b'"').adjusted() == 10**6 - 1


# --- properties -----------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner))


@given(json_values)
def test_every_json_value_comes_back(value: Any) -> None:
    assert ANY.decode(ANY.encode(value)) == value


@given(st.binary())
def test_any_bytes_come_back_or_are_refused(data: bytes) -> None:
    assert serde_for(bytes).decode(serde_for(bytes).encode(data)) == data
    assert ANY.decode(ANY.encode(data)) == data
    for annotation in (Any, Point, User, dict[str, int]):
        try:
            serde_for(annotation).decode(data)
        except SerializationError:
            continue


@given(st.lists(st.sampled_from(["[", '{"a":', "]", "}", '"', '"]"', "\\", "\\\\", ",", '"\\"["', "1"])))
def test_depth_is_counted_outside_of_strings_only(pieces: list[str]) -> None:
    flat = f"[{json.dumps(''.join(pieces))}]"  # the pieces are one string in there: nothing opens
    deep = flat
    for _ in range(MAX_DEPTH - 1):
        deep = f"[{json.dumps(''.join(pieces))},{deep}]"
    ANY.decode(deep.encode())
    with pytest.raises(SerializationError, match="deeper"):
        ANY.decode(f"[{deep}]".encode())


# --- signatures -----------------------------------------------------------------------------------------------------


class Context:
    pass


async def plain(ctx: Context, order: Order) -> Point:
    raise NotImplementedError


async def bare(ctx, order):  # type: ignore[no-untyped-def]
    raise NotImplementedError


async def nothing(ctx: Context) -> None: ...


async def optional(ctx: Context, order: "Order | None" = None, *, clock: int = 3) -> "list[Point]":
    raise NotImplementedError


def deferred(ctx: "Ghost", order: "Order", /) -> Awaitable["Point"]:
    raise NotImplementedError


class Shop:
    async def sell(self, ctx: Context, order: Annotated[str, ROT]) -> bytes:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("fn", "skip", "expected"),
    [
        (plain, 1, Signature(Order, Point, True, context=Context)),
        (bare, 1, Signature(Any, Any, True)),
        (nothing, 1, Signature(None, type(None), False, context=Context)),
        (optional, 1, Signature(Order | None, list[Point], True, None, context=Context)),
        (deferred, 1, Signature(Order, Point, True)),
        (Shop.sell, 2, Signature(Annotated[str, ROT], bytes, True, context=Context)),
        (Shop().sell, 1, Signature(Annotated[str, ROT], bytes, True, context=Context)),
    ],
)
def test_a_handlers_types_are_read_from_its_annotations(fn: Any, skip: int, expected: Signature) -> None:
    assert signature_of(fn, skip=skip) == expected


async def two(ctx: Context, order: Order, note: str) -> None: ...
async def starred(ctx: Context, *orders: Order) -> None: ...
async def named(ctx: Context, *, order: Order) -> None: ...
async def no_context() -> None: ...


@pytest.mark.parametrize("fn", [two, starred, named, no_context])
def test_a_handler_takes_its_context_and_at_most_one_input(fn: Any) -> None:
    with pytest.raises(TypeError, match=rf"test_serde\.{fn.__name__}\(.* into one msgspec Struct"):
        signature_of(fn, skip=1)


async def unresolved(ctx: Context, order: "Ghost") -> None: ...
async def malformed(ctx: Context, order: Any) -> None: ...


malformed.__annotations__["order"] = "list["


def test_an_annotation_that_cannot_be_evaluated_is_named() -> None:
    with pytest.raises(SerializationError, match="unresolved names 'Ghost', which does not exist at run time"):
        signature_of(unresolved, skip=1)
    with pytest.raises(SerializationError, match="malformed is wrong"):
        signature_of(malformed, skip=1)


def step(order: "Ghost") -> "Point": ...  # type: ignore[empty-body]
def eventually() -> Coroutine[Any, Any, Point]: ...  # type: ignore[empty-body]
async def twice() -> Awaitable[Point]: ...  # type: ignore[empty-body]
def ghostly() -> "Ghost": ...


class Callee:
    def __call__(self, n: int) -> list["Point"]: ...  # type: ignore[empty-body]

    def method(self) -> Point: ...  # type: ignore[empty-body]


@functools.wraps(step)
def wrapper(*args: Any) -> Any: ...


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (step, Point),
        (eventually, Point),
        (twice, Awaitable[Point]),
        (nothing, type(None)),
        (lambda: 1, Any),
        (len, Any),
        ([].append, Any),
        (Decimal, Decimal),
        (Callee(), list[Point]),
        (Callee().method, Point),
        (functools.partial(functools.partial(step, 1)), Point),
        (functools.cache(step), Point),
        (wrapper, Point),
        (functools.partial(Callee(), 1), list[Point]),
    ],
)
def test_the_return_annotation_of_any_callable_is_found(fn: Callable[..., Any], expected: Any) -> None:
    for _ in range(2):  # computed, and remembered
        assert return_annotation(fn) == expected


def test_an_unresolved_return_annotation_is_named() -> None:
    with pytest.raises(SerializationError, match="ghostly names 'Ghost'"):
        return_annotation(ghostly)


def test_functions_made_for_one_call_are_not_kept() -> None:
    def make() -> Callable[[], object]:
        def inner() -> "list[Point]":
            raise NotImplementedError

        return inner

    made: collections.abc.Callable[[], object] | None = make()
    assert made is not None and return_annotation(made) == list[Point]
    gone = weakref.ref(made)
    made = None
    gc.collect()
    assert gone() is None


def test_importing_it_imports_no_optional_library() -> None:
    code = "import durable.serde, sys; print([m for m in ('pydantic', 'attr', 'attrs') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"
