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
from dataclasses import InitVar, dataclass, field
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


class Loose(pydantic.BaseModel):
    anything: Any


class Visit(pydantic.BaseModel):
    at: pydantic.AwareDatetime
    notes: dict[str, tuple[datetime.datetime, str]] = {}


class Either(pydantic.BaseModel):
    at: datetime.datetime | str


class Stamped(pydantic.BaseModel):
    at: datetime.datetime

    @pydantic.field_serializer("at")
    def iso(self, at: datetime.datetime) -> str:
        return at.isoformat()


class Stay(msgspec.Struct):
    since: datetime.datetime
    breakfast: datetime.time


class Elsewhere(datetime.tzinfo):
    def utcoffset(self, at: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=3)

    def dst(self, at: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta()

    def tzname(self, at: datetime.datetime | None) -> str:
        return "MSK"


@dataclass
class Initialized:
    a: int
    times: InitVar[int]

    def __post_init__(self, times: int) -> None:
        self.a *= times


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


def nested_lists() -> list[Any]:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    return value


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
NAMED = "2026-07-01T12:00:00+02:00[Europe/Berlin]"
NOON = datetime.time(12, tzinfo=ZoneInfo("Europe/Berlin"))
#: From before its time was one of minutes.
AMSTERDAM = datetime.datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))
DOUBTFUL = [
    BERLIN.replace(month=month, day=day, hour=2, minute=30, fold=fold)
    for month, day in ((10, 25), (3, 29), (1, 1))
    for fold in (0, 1)
]
HEX = Serde[bytes](lambda data: data.hex().encode(), lambda text: bytes.fromhex(text.decode()))

CASES = [
    Case("`None`", None, lambda: None),
    Case("`bool`, `int`, `float`, `str`", dict[str, bool | int | str], lambda: {"a": True, "b": 10**30, "c": "ü\0"}),
    Case("an integer of any size up to 4,300 digits", int, lambda: -(10**200)),
    Case("text with half of a surrogate pair", str, lambda: "\ud800", REFUSED, "UTF-8 has none"),
    Case("what is nested deeper than 200 levels (32 in pydantic models)", list[Any], nested_lists, REFUSED),
    Case("a value of another type than is annotated: a date for `str`", list[str], lambda: [AT.date()], REFUSED),
    Case("… text or a number for what it stands for in JSON", list[uuid.UUID | float],
         lambda: [str(uuid.UUID(int=7)), 1], lambda: [uuid.UUID(int=7), 1.0], "it is read as it is annotated"),
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
    Case("a `datetime` in a zone with a name", dict[datetime.datetime, list[datetime.datetime | None]],
         lambda: {BERLIN: [BERLIN, None, AMSTERDAM]}, None,
         "as RFC 9557 has it: `2026-07-01T12:00:00+02:00[Europe/Berlin]`. Where a zone is not known when it is read, "
         "that is an error. Should it have another offset by then, the moment stays"),
    Case("… at a time of day that is there twice, or not at all", list[datetime.datetime], lambda: DOUBTFUL),
    Case("… in a field of a record", Stay, lambda: Stay(BERLIN, NOON)),
    Case("… in a pydantic model", Visit, lambda: Visit(at=BERLIN, notes={"a": (DOUBTFUL[1], NAMED)})),
    Case("… where a serializer of the model's own writes the offset only", Stamped, lambda: Stamped(at=BERLIN),
         REFUSED, "write `at.isoformat()` into a field that is text, or do without the serializer"),
    Case("… in a pydantic model that may have text in the same place", Either, lambda: Either(at=BERLIN), REFUSED),
    Case("a `time` in a zone with a name", datetime.time, lambda: NOON, None, "as `12:00:00[Europe/Berlin]`"),
    Case("a zone of another library (`pytz`, `dateutil`)", datetime.datetime, lambda: AT.astimezone(Elsewhere()),
         lambda: AT.astimezone(datetime.timezone(datetime.timedelta(hours=3))), "the same moment and offset"),
    Case("the abbreviation that `astimezone()` gives an offset", datetime.datetime,
         lambda: AT.astimezone(datetime.timezone(datetime.timedelta(hours=1), "CET")),
         lambda: AT.astimezone(datetime.timezone(datetime.timedelta(hours=1))), "such datetimes are equal"),
    Case("an offset that is no number of minutes", datetime.datetime,
         lambda: AT.astimezone(datetime.timezone(datetime.timedelta(seconds=1))), REFUSED, "RFC 3339 has none"),
    Case("`fold=1` without a zone", datetime.datetime, lambda: datetime.datetime(2026, 10, 25, 2, 30, fold=1)),
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
    Case("… in something", list[Annotated[bytes, HEX]], lambda: [b"\1"], UNDECLARED,
         "it would not be asked: annotate the whole value with one"),
    Case("`NamedTuple`", Point, lambda: Point(1, 2.5)),
    Case("`TypedDict`", Movie, lambda: Movie(title="a")),
    Case("… with keys that it does not have", Movie, lambda: {"title": "a", "year": 1999}, REFUSED),
    Case("a Struct", Animal, lambda: Animal("a")),
    Case("a generic Struct", Box[list[int]], lambda: Box([1])),
    Case("a union of tagged Structs", list[Cat | Fish], lambda: [Fish(), Cat(7)]),
    Case("a dataclass that holds itself", Order,
         lambda: Order(Sku("a"), decimal.Decimal(1), AT, [Order(Sku("b"), decimal.Decimal(2), AT)])),
    Case("a dataclass with an `InitVar`", Initialized, lambda: Initialized(1, 2), UNDECLARED,
         "nobody could say what it was made with"),
    Case("an attrs class", Aliased, lambda: Aliased(w=1), None, "also with aliases"),
    Case("pydantic's own types, outside of models", list[pydantic.HttpUrl | pydantic.PositiveInt],
         lambda: [pydantic.HttpUrl("http://a.b/"), 7]),
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
    Case("… a tuple, a set, a `NamedTuple`", Any, lambda: [(1, 2), {3}, Point(4, 5.5)],
         lambda: [[1, 2], [3], [4, 5.5]], "their containers are JSON's, lists and dicts; what they hold is the same"),
    Case("… a record", Any, lambda: [Animal("a"), Patch(name="a", age=1)],
         lambda: [{"name": "a"}, {"name": "a", "age": 1}], "in the same way, a dict"),
    Case("… a dict whose keys are no text", Any, lambda: {1: {2: "a"}}, REFUSED,
         "what JSON has no form of its own for is refused: say its type"),
    Case("… a date", Any, lambda: {"at": AT.date()}, REFUSED),
    Case("… a `Decimal`, `UUID`, `Path`, `timedelta`", Any, lambda: [decimal.Decimal("1.10")], REFUSED),
    Case("… an enum", Any, lambda: [Color.RED], REFUSED),
    Case("… `bytes` in something", Any, lambda: [b"a"], REFUSED),
    Case("… a record that holds one of these", Any, lambda: Pet(petName="a", born=AT.date()), REFUSED),
    Case("an `Any` inside of something: plain values", Box[Any], lambda: Box({"a": [1, None]})),
    Case("… one of these", Box[Any], lambda: Box({"a": AT}), REFUSED),
    Case("… also in a pydantic model", Loose, lambda: Loose(anything={1: "a"}), REFUSED),
    Case("a bare `dict` whose keys are no text", dict, lambda: {1: "a"}, REFUSED, "write `dict[int, str]`"),
    Case("a `dict` with keys of several types that are no text", dict[int | str, str], lambda: {1: "a"}, REFUSED,
         "all keys are text in JSON"),
    Case("a `dict` with keys of one type", tuple[dict[datetime.date, int], dict[uuid.UUID, int], dict[Color, int]],
         lambda: ({AT.date(): 1}, {uuid.UUID(int=7): 2}, {Color.RED: 3})),
    Case("… of tuples", dict[tuple[int, int], str], lambda: {(1, 2): "a"}, REFUSED, "use a list of pairs"),
]  # fmt: skip


#: How the page says it.
WORDS: dict[Callable[[], Any], str] = {REFUSED: "refused", UNDECLARED: "refused where it is declared"}


def same(value: Any, back: Any) -> bool:
    """Equal, of the same type, and so is what `==` does not see: zones, `fold`, and what models have beside."""
    hidden = ("__pydantic_private__", "__pydantic_fields_set__")
    beside = [[getattr(one, name, None) for name in hidden] for one in (value, back)]
    shown = [sorted(repr(one)) for one in (value, back)]  # sets have no order
    return type(value) is type(back) and value == back and beside[0] == beside[1] and shown[0] == shown[1]


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
        "The same holds for results of steps, arguments, results of handlers, state, awakeables, signals, promises,",
        "and values of records of a topic, by the annotation that is given there. (`tests/values` tries each row at",
        "each of these doors, and replays them in another process. This page is written from its table.)",
        "",
        "**Where nobody knows the reader's type** (`resolve_awakeable`, `send_signal`, `resolve_promise`,",
        "`patch_state`, `ctx.set` without a type, a call by name from another process), everything that has a JSON",
        'form goes in, and so do `bytes`. Who reads it says its type: `await ctx.get("due", datetime)` gives back',
        'what `ctx.set("due", …)` was given. Who says none gets what JSON has: text for a date, text for a key.',
        "Refused is only what no reader could get back: a secret, NaN, two keys that are the same text.",
        "",
        "| Value | What comes back | |",
        "|---|---|---|",
    ]
    for case in CASES:
        what = "the same" if case.back is None else WORDS.get(case.back) or f"`{case.back()!r}`"
        lines.append(f"| {case.what} | {what} | {case.why} |")
    lines += [
        "",
        "Clients over HTTP that are not of this library get datetimes as RFC 3339 has them, without names of zones.",
        "What a class computes and keeps (`cached_property`) is no part of its values; objects that know no equality",
        "(a lock) are taken for equal.",
        "An attribute of a `TerminalError`'s subclass is of the type that its annotation says, in the class or in",
        "`__init__`; without one it comes back as JSON has it: a date as text, a record as a dict.",
        "",
    ]
    return "\n".join(lines)
