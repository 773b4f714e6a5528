"""Values, by annotation: what comes back the same at each door, what is refused where it goes in, what JSON narrows.

`docs/values.md` is written from this table: `REWRITE_VALUES=1 pytest tests/values`.
"""

import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, LiteralString, NamedTuple, NewType, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic

from durable.serde import Serde

T = TypeVar("T")
Number = TypeVar("Number", int, str)
Sku = NewType("Sku", str)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int
    y: float


class Movie(TypedDict, total=False):
    title: str


class Box(msgspec.Struct, Generic[T]):
    inside: T


class Animal(msgspec.Struct):
    name: str


class Dog(Animal):
    loud: bool = True


class Cat(msgspec.Struct, tag=True):
    lives: int = 9


class Fish(msgspec.Struct, tag=True):
    wet: bool = True


@dataclass
class Order:
    sku: Sku
    price: decimal.Decimal
    at: datetime.datetime
    parts: "list[Order]" = field(default_factory=list)
    note: str | None = None


@dataclass
class Later(Order):
    days: int = 1


@dataclass
class Taxed:
    gross: float

    def __post_init__(self) -> None:
        self.gross = self.gross * 1.25


@dataclass
class Noted:
    name: str

    def __post_init__(self) -> None:
        self._note = ""


def noted() -> Noted:
    one = Noted("a")
    one._note = "kept beside the fields"
    return one


@attrs.define
class Frame:
    width: int
    _depth: int = 0


@attrs.define
class Aliased:
    width: int = attrs.field(alias="w")


class Pet(pydantic.BaseModel):
    name: str = pydantic.Field(alias="petName")
    born: datetime.date | None = None


class Puppy(Pet):
    trained: bool = False


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class Row(pydantic.BaseModel):
    a: int
    internal: int = pydantic.Field(0, exclude=True)


class Counted(pydantic.BaseModel):
    a: int
    _count: int = 0


def counted(count: int) -> Counted:
    one = Counted(a=1)
    one._count = count
    return one


class Net(pydantic.BaseModel):
    gross: float

    @pydantic.field_validator("gross")
    @classmethod
    def vat(cls, gross: float) -> float:
        return gross * 1.25


class Tidy(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def strip(cls, name: str) -> str:
        return name.strip()


class Patch(pydantic.BaseModel):
    name: str = ""
    age: int | None = None


class Meeting(pydantic.BaseModel):
    at: pydantic.FutureDatetime


class Blob(pydantic.BaseModel):
    data: bytes


class Encoded(Blob):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Shape(pydantic.BaseModel):
    sides: int = 4


class Square(Shape):
    width: int = 1


class Circle(pydantic.BaseModel):
    kind: typing.Literal["circle"] = "circle"


class Line(pydantic.BaseModel):
    kind: typing.Literal["line"] = "line"


class Ratio(enum.Enum):
    HALF = 0.5


class Corner(enum.Enum):
    LEFT = (0, 0)


class Empty(enum.Enum):
    NOTHING = None


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


@dataclass
class Queue:
    items: collections.deque[int]


@dataclass
class Groups:
    items: collections.defaultdict[str, int]


@dataclass
class Tally:
    items: collections.Counter[str]


class Collected(pydantic.BaseModel):
    queue: collections.deque[int]
    groups: collections.defaultdict[str, int]
    tally: collections.Counter[str]


class Case(NamedTuple):
    """One row."""

    what: str
    annotation: Any
    value: Callable[[], Any]
    #: What comes back: None where that is the value itself; or `REFUSED`, `UNDECLARED`.
    back: Callable[[], Any] | None = None
    why: str = ""


def REFUSED() -> Any:
    """It does not go in."""
    raise AssertionError


def UNDECLARED() -> Any:
    """The annotation is refused, before there is a value."""
    raise AssertionError


AT = datetime.datetime(2026, 11, 29, 17, 45, tzinfo=datetime.UTC)
BERLIN = datetime.datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
HEX = Serde[bytes](lambda data: data.hex().encode(), lambda text: bytes.fromhex(text.decode()))

CASES = [
    Case("`None`", None, lambda: None),
    Case("`bool`, `int`, `float`, `str`", dict[str, bool | int | str], lambda: {"a": True, "b": 10**30, "c": "ü\0"}),
    Case("an integer of any size up to 4,300 digits", int, lambda: -(10**200)),
    Case("NaN and infinity", float, lambda: float("nan"), REFUSED, "JSON has neither"),
    Case("`bytes`", bytes, lambda: b"\0\xff"),
    Case("`bytearray`", bytearray, lambda: bytearray(b"ab")),
    Case("`bytes` inside of something", list[bytes], lambda: [b"\xff"], None, "as base64"),
    Case("`list`, `dict`, `set`, `frozenset`, `tuple`", tuple[list[int], dict[int, str], frozenset[int]],
         lambda: ([1], {1: "a"}, frozenset({1, 2}))),
    Case("a subclass of a builtin", str, lambda: Text("a"), lambda: "a", "it is written as what it is a subclass of"),
    Case("an enum", dict[Color, Level], lambda: {Color.RED: Level.HIGH}),
    Case("an enum of floats", Ratio, lambda: Ratio.HALF, UNDECLARED,
         "an enum has text only, or `int`s only: for others use a `Serde` of your own"),
    Case("… of tuples", Corner, lambda: Corner.LEFT, UNDECLARED),
    Case("… of `None`", Empty, lambda: Empty.NOTHING, UNDECLARED),
    Case("… of text and `int`s", Mixed, lambda: Mixed.ONE, UNDECLARED),
    Case("`Decimal`", decimal.Decimal, lambda: decimal.Decimal("1.10")),
    Case("`Fraction`", fractions.Fraction, lambda: fractions.Fraction(1, 3)),
    Case("`UUID`", uuid.UUID, lambda: uuid.UUID(int=7)),
    Case("`Path`", pathlib.Path, lambda: pathlib.Path("/srv/a b")),
    Case("`ipaddress`", list[ipaddress.IPv4Address | None], lambda: [ipaddress.IPv4Address("10.0.0.1"), None]),
    Case("`ZoneInfo`", ZoneInfo, lambda: ZoneInfo("Europe/Berlin")),
    Case("`date`, `time`, `timedelta`", tuple[datetime.date, datetime.time, datetime.timedelta],
         lambda: (datetime.date(2026, 1, 1), datetime.time(1, 2, 3, 4), datetime.timedelta(days=1, microseconds=5))),
    Case("a `datetime` without a zone, or in UTC", list[datetime.datetime],
         lambda: [datetime.datetime(2026, 1, 1), AT]),
    Case("a `datetime` in a zone with a name", datetime.datetime, lambda: BERLIN,
         lambda: BERLIN.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
         "the same moment with the same offset; the zone's name is lost: keep it beside, as a `ZoneInfo`"),
    Case("a `datetime` without a zone, with `fold=1`", datetime.datetime,
         lambda: datetime.datetime(2026, 10, 25, 2, 30, fold=1), lambda: datetime.datetime(2026, 10, 25, 2, 30),
         "`fold` is lost: give it a zone, whose offset is kept"),
    Case("`Literal`, unions, `Optional`", list[typing.Literal["a"] | int | None], lambda: ["a", 1, None]),
    Case("a union of types that are text in JSON: `UUID \\| str`", uuid.UUID | str, lambda: uuid.UUID(int=7),
         UNDECLARED, "nobody could tell them apart: use a record with a field for each"),
    Case("… `date \\| datetime`", datetime.date | datetime.datetime, AT.date, UNDECLARED),
    Case("`deque` outside of pydantic models", Queue, lambda: Queue(collections.deque([1])), UNDECLARED,
         "use a `list` or a `dict`"),
    Case("… `defaultdict`", Groups, lambda: Groups(collections.defaultdict(int)), UNDECLARED),
    Case("… `Counter`", Tally, lambda: Tally(collections.Counter("a")), UNDECLARED),
    Case("… these three in a pydantic model", Collected, lambda: Collected(
        queue=collections.deque([1]), groups=collections.defaultdict(int, a=1), tally=collections.Counter("a"))),
    Case("`LiteralString`", LiteralString, lambda: "a"),
    Case("`NewType`", Sku, lambda: Sku("a")),
    Case("`Annotated` with constraints", Annotated[int, msgspec.Meta(ge=1)], lambda: 1),
    Case("`Annotated` with a constraint that does not hold, in a record", Box[Annotated[int, msgspec.Meta(ge=1)]],
         lambda: Box(0), REFUSED, "it could not be read back"),
    Case("`Annotated` with a `Serde` of your own", Annotated[bytes, HEX], lambda: b"\1"),
    Case("`NamedTuple`", Point, lambda: Point(1, 2.5)),
    Case("`TypedDict`", Movie, lambda: Movie(title="a")),
    Case("a Struct", Animal, lambda: Animal("a")),
    Case("a generic Struct", Box[list[int]], lambda: Box([1])),
    Case("a union of tagged Structs", list[Cat | Fish], lambda: [Fish(), Cat(7)]),
    Case("a dataclass that holds itself", Order,
         lambda: Order(Sku("a"), decimal.Decimal(1), AT, [Order(Sku("b"), decimal.Decimal(2), AT)])),
    Case("an attrs class", Aliased, lambda: Aliased(w=1), None, "also with aliases"),
    Case("a pydantic model", list[Pet], lambda: [Pet(petName="a")], None, "by alias, without computed fields"),
    Case("which fields of a model were set (`model_fields_set`)", Patch, lambda: Patch(name="a"),
         lambda: Patch(name="a", age=None),
         "all were, afterwards, so `exclude_unset` excludes nothing: pass what was sent as the next row does"),
    Case("… `model_dump(exclude_unset=True)`, as a dict of its own or in a field",
         tuple[dict[str, Any], Box[dict[str, Any]]],
         lambda: (sent := Patch(name="a").model_dump(mode="json", exclude_unset=True), Box(sent))),
    Case("a union of models that look alike, with what fits an earlier one too", Square | Shape, Shape, REFUSED,
         "the first that fits is read: tell them apart as the next row does"),
    Case("… told apart by a `Literal` field", list[Line | Circle], lambda: [Circle(), Line()]),
    Case("`bytes` in a model that are not UTF-8", Blob, lambda: Blob(data=b"\xff"), REFUSED,
         "pydantic writes bytes as text: configure the model as in the next row"),
    Case('… with `ser_json_bytes="base64"` and `val_json_bytes="base64"`', Encoded, lambda: Encoded(data=b"\xff")),
    Case("a model whose validator changes nothing the second time", Tidy, lambda: Tidy(name=" a ")),
    Case("a model with a private attribute that has its default", Counted, lambda: counted(0)),
    Case("a subclass where its base is annotated: Struct", Animal, lambda: Dog("a"), REFUSED,
         "annotate it, or a union"),
    Case("… dataclass", Order, lambda: Later(Sku("a"), decimal.Decimal(1), AT), REFUSED),
    Case("… pydantic", list[Pet], lambda: [Puppy(petName="a")], REFUSED),
    Case("a secret (`SecretStr`)", Login, lambda: Login(user="a", password=pydantic.SecretStr("x")), REFUSED,
         "pydantic writes it masked: use `str`"),
    Case("an excluded field that does not have its default", Row, lambda: Row(a=1, internal=5), REFUSED),
    Case("a private attribute of a model, changed", Counted, lambda: counted(3), REFUSED),
    Case("an attribute beside a dataclass's fields, changed", Noted, noted, REFUSED),
    Case("a private attribute of an attrs class", Frame, lambda: Frame(1, depth=2), REFUSED,
         "msgspec writes none that begins with an underscore"),
    Case("a validator that changes a value each time", Net, lambda: Net(gross=100), REFUSED),
    Case("a `__post_init__` that does", Taxed, lambda: Taxed(100), REFUSED),
    Case("what a validator takes no longer, because it depends on time or on data elsewhere", Meeting,
         lambda: Meeting.model_construct(at=AT.replace(year=2020)), REFUSED,
         "validators run at each reading: an input with a `FutureDatetime` that is over at a resume pauses as "
         "`input-not-readable`. Check such things in the handler"),
    Case("a record where the annotation is a TypeVar", T, lambda: Animal("a"), REFUSED,
         "it does not say what to read"),
    Case("a plain value where the annotation is a TypeVar", T, lambda: ["a", 1, {"b": None}]),
    Case("a TypeVar with constraints", Number, lambda: "a"),
    Case("no annotation, `Any`, `object`: plain values, `bytes`", Any, lambda: {"a": [1, None, "x"]}),
    Case("… a tuple, a set", Any, lambda: (1, 2), lambda: [1, 2], "they become lists"),
    Case("… a dict whose keys are no text", Any, lambda: {1: {2: "a"}}, lambda: {"1": {"2": "a"}},
         "the keys become text"),
    Case("… a record", Any, lambda: Animal("a"), lambda: {"name": "a"}, "it becomes a dict"),
    Case("… a date, a `Decimal`, a `UUID`, an enum, a `Path`", Any, lambda: [AT.date(), Color.RED],
         lambda: ["2026-11-29", "red"], "they become what JSON has for them"),
    Case("a bare `dict` whose keys are no text", dict, lambda: {1: "a"}, lambda: {"1": "a"},
         "here, too: write `dict[int, str]`"),
]  # fmt: skip


#: How the page says it.
WORDS: dict[Callable[[], Any], str] = {REFUSED: "refused", UNDECLARED: "refused where it is declared"}


def same(value: Any, back: Any) -> bool:
    """Equal, of the same type, and so is what `==` does not see: in models beside their fields, and `fold`."""
    hidden = ("__pydantic_private__", "__pydantic_fields_set__", "fold")
    beside = [[getattr(one, name, None) for name in hidden] for one in (value, back)]
    return type(value) is type(back) and value == back and beside[0] == beside[1]


def has_serde(annotation: Any) -> bool:
    """Whether it names a serializer of its own."""
    return any(isinstance(one, Serde) for one in getattr(annotation, "__metadata__", ()))


def page() -> str:
    """The page of the documentation."""
    lines = [
        "# Values",
        "",
        "What a handler gets is what was given, live and replayed, or it is refused where it goes in, with a",
        "`SerializationError` that names handler, step or parameter, the type, and the part that would be lost.",
        "What JSON narrows is listed here, too. The same holds for results of steps, arguments, results of handlers,",
        "state, awakeables, signals and promises, by the annotation that is given there. (`tests/values` tries each",
        "row at each of these doors, and replays them in another process. This page is written from its table.)",
        "",
        "| Value | What comes back | |",
        "|---|---|---|",
    ]
    for case in CASES:
        what = "the same" if case.back is None else WORDS.get(case.back) or f"`{case.back()!r}`"
        lines.append(f"| {case.what} | {what} | {case.why} |")
    lines += [
        "",
        "Bytes that are written where nobody knows the reader's type (`resolve_awakeable`, `ctx.set` without a type)",
        "are the same for a reader that says `bytes`. What a class computes and keeps (`cached_property`) is no part",
        "of its values; objects that know no equality (a lock) are taken for equal.",
        "An attribute of a `TerminalError`'s subclass is of the type that its annotation says, in the class or in",
        "`__init__`; without one it comes back as JSON has it: a date as text, a record as a dict.",
        "",
    ]
    return "\n".join(lines)
