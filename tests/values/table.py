"""Values, by annotation: what comes back the same at each door, what is refused where it goes in, what JSON narrows.

`docs/values.md` is written from this table: `REWRITE_VALUES=1 pytest tests/values`.
"""

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


class Case(NamedTuple):
    """One row."""

    what: str
    annotation: Any
    value: Callable[[], Any]
    #: What comes back: None where that is the value itself; or `REFUSED`.
    back: Callable[[], Any] | None = None
    why: str = ""


def REFUSED() -> Any:
    """It does not go in."""
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
    Case("`Literal`, unions, `Optional`", list[typing.Literal["a"] | int | None], lambda: ["a", 1, None]),
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
    Case("a record where the annotation is a TypeVar", T, lambda: Animal("a"), REFUSED,
         "it does not say what to read"),
    Case("a plain value where the annotation is a TypeVar", T, lambda: ["a", 1, {"b": None}]),
    Case("a TypeVar with constraints", Number, lambda: "a"),
    Case("no annotation, `Any`, `object`: plain values, `bytes`", Any, lambda: {"a": [1, None, "x"]}),
    Case("… a tuple, a set", Any, lambda: (1, 2), lambda: [1, 2], "they become lists"),
    Case("… a record", Any, lambda: Animal("a"), lambda: {"name": "a"}, "it becomes a dict"),
    Case("… a date, a `Decimal`, a `UUID`, an enum, a `Path`", Any, lambda: [AT.date(), Color.RED],
         lambda: ["2026-11-29", "red"], "they become what JSON has for them"),
]  # fmt: skip


def same(value: Any, back: Any) -> bool:
    """Equal, of the same type, and so is what models have beside their fields."""
    private = [getattr(one, "__pydantic_private__", None) for one in (value, back)]
    return type(value) is type(back) and value == back and private[0] == private[1]


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
        what = "the same" if case.back is None else "refused" if case.back is REFUSED else f"`{case.back()!r}`"
        lines.append(f"| {case.what} | {what} | {case.why} |")
    lines += [
        "",
        "Bytes that are written where nobody knows the reader's type (`resolve_awakeable`, `ctx.set` without a type)",
        "are the same for a reader that says `bytes`. What a class computes and keeps (`cached_property`) is no part",
        "of its values; objects that know no equality (a lock) are taken for equal.",
        "",
    ]
    return "\n".join(lines)
