"""C-091: dates and times come back with their zones' names and `fold`, and older text is read as before."""

import datetime
import decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import durable
from durable import Context, Engine, SerializationError, handler, ingress
from durable.serde import ANY, ANY_READER, outward, serde_for, stable, writer
from tests.remote.test_api import served
from tests.values.table import BERLIN, NAMED, NOON, Stay, Visit, same

#: Zones of every kind: with summer time, without, with an odd offset, with days left out, links, capitals.
ZONES = [
    "UTC",
    "Europe/Dublin",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Argentina/Ushuaia",
    "Etc/GMT+5",
]


class Event(msgspec.Struct, tag=True):
    at: datetime.datetime
    text: str = ""


class Pause(msgspec.Struct, tag=True):
    text: str


class Row(msgspec.Struct, tag=True, array_like=True):
    note: str
    times: dict[datetime.time, "list[Event | Pause | None]"]
    below: "Row | Hole | None" = None


class Hole(msgspec.Struct, tag=True, array_like=True):
    note: str


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.datetimes(), st.sampled_from(ZONES), st.integers(0, 1), st.times())
def test_any_moment_in_any_zone_comes_back(
    naive: datetime.datetime, zone: str, fold: int, time: datetime.time
) -> None:
    at = naive.replace(tzinfo=ZoneInfo(zone), fold=fold)
    time = time.replace(tzinfo=ZoneInfo(zone), fold=fold)
    tree = [Row(NAMED, {time: [None, Event(at, NAMED), Pause(NAMED)]}, Row(NAMED, {}, Hole(NAMED))), Hole(NAMED)]
    for annotation, value in ((list[Row | Hole], tree), (datetime.datetime, at), (datetime.time | None, time)):
        serde = serde_for(annotation)
        assert same(value, serde.decode(serde.encode(value)))


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("2026-07-01T12:00:00+02:00", BERLIN.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))),
        ("2026-07-01T12:00:00", BERLIN.replace(tzinfo=None)),
        (NAMED, BERLIN),
        ("2026-07-01T10:00:00Z[Europe/Berlin]", BERLIN),
        ("2026-07-01T12:00:00+02:00[!Europe/Berlin][u-ca=gregory]", BERLIN),
        ("2026-07-01T13:00:00+03:00[Europe/Berlin]", BERLIN),  # the zone has another offset now: the moment stays
        ("2026-07-01T12:00:00+02:00[+02:00]", BERLIN.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))),
    ],
)
def test_what_older_files_and_others_write_is_read(text: str, back: datetime.datetime) -> None:
    for annotation in (datetime.datetime, pydantic.AwareDatetime if back.tzinfo else datetime.datetime):
        found = serde_for(annotation).decode(msgspec.json.encode(text))
        assert found == back
        assert getattr(found.tzinfo, "key", None) == getattr(back.tzinfo, "key", None)
    assert serde_for(datetime.datetime).decode(msgspec.json.encode(text).replace(b"/", b"\\/")) == back


@pytest.mark.parametrize("annotation", [datetime.datetime, pydantic.AwareDatetime, Stay, Visit])
def test_a_zone_that_is_not_known_here_is_an_error_that_names_it(annotation: Any) -> None:
    text = b'"2026-07-01T12:00:00+02:00[Mars/Olympus]"'
    if isinstance(annotation, type):
        text = {Stay: b'{"since":%s,"breakfast":"12:00:00"}', Visit: b'{"at":%s}'}.get(annotation, b"%s") % text
    with pytest.raises(SerializationError, match="there is no time zone 'Mars/Olympus' here"):
        serde_for(annotation).decode(text)


def test_a_wrong_text_in_brackets_is_an_error_of_ours() -> None:
    for text in ("x[Europe/Berlin]", "2026-07-01T12:00:00+02:00[]", "2026-07-01T12:00:00+02:00[!u-ca=x]", "[]]"):
        for annotation in (datetime.datetime, Visit, Stay):
            with pytest.raises(SerializationError):
                serde_for(annotation).decode(
                    msgspec.json.encode({"at": text, "since": text, "breakfast": "12:00:00"})
                )


def test_what_a_replay_compares_is_as_earlier_versions_made_it() -> None:
    """They wrote no names: the journal of an invocation that they began agrees with what its handler asks for now."""
    offset = BERLIN.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    for annotation, value, before in (
        (datetime.datetime, BERLIN, offset),
        (Stay, Stay(BERLIN, NOON), Stay(offset, NOON.replace(tzinfo=None))),
        (Visit, Visit(at=BERLIN), Visit(at=offset)),
        (Any, {"at": BERLIN}, {"at": offset}),
    ):
        serde = writer(annotation)
        written = serde.encode(value)
        assert b"[Europe/Berlin]" in written
        assert stable(value, written, serde) == stable(before, serde.encode(before), serde)


def test_text_that_looks_like_a_moment_stays_text() -> None:
    for annotation, value in ((str, NAMED), (dict[str, Any], {NAMED: [NAMED]}), (Any, {NAMED: [NAMED]})):
        serde = serde_for(annotation)
        assert serde.decode(serde.encode(value)) == value
        assert outward(serde, serde.encode(value)) == serde.encode(value)


def test_who_knows_no_type_writes_zones_for_whoever_does() -> None:
    held = {"a": [Stay(BERLIN, NOON), {NOON: BERLIN}, Visit(at=BERLIN)]}
    assert ANY_READER.encode(held).count(b"[Europe/Berlin]") == 5
    assert ANY.decode(ANY_READER.encode(BERLIN)) == NAMED


def test_zones_of_pydantic_models_come_back_in_every_kind_of_field() -> None:
    class Everything(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, extra="allow")
        first: datetime.datetime = pydantic.Field(alias="First")
        items: list[datetime.datetime]
        pair: tuple[int, datetime.datetime]
        unordered: frozenset[datetime.datetime]
        keyed: dict[datetime.datetime, datetime.time]
        text: str
        number: decimal.Decimal
        below: "Everything | None" = None
        root: pydantic.RootModel[dict[str, datetime.datetime]]

    def everything(below: Everything | None) -> Everything:
        late = BERLIN.replace(month=10, day=25, hour=2, fold=1)
        root = pydantic.RootModel[dict[str, datetime.datetime]]({"a": late})
        return Everything(
            First=BERLIN, items=[late, BERLIN], pair=(1, late), unordered=frozenset({late, BERLIN}),
            keyed={late: NOON}, text=NAMED, number=decimal.Decimal("0.10"), below=below,
            root=root,
        )  # fmt: skip

    value = {"a": everything(everything(None))}
    serde = serde_for(dict[str, Everything])
    data = serde.encode(value)
    assert same(value, serde.decode(data))
    assert serde.decode(data.replace(b'"0.10"', b"0.10")) == value  # as others may write it
    assert b"[Europe" not in outward(serde, serde.encode(value)).replace(NAMED.encode(), b"")


@handler(service="Calendar")
async def echo(ctx: Context, at: datetime.datetime) -> datetime.datetime:
    assert isinstance(at.tzinfo, ZoneInfo)
    return at


@pytest.mark.anyio
async def test_clients_of_ours_get_the_zone_and_others_what_the_schema_says(tmp_path: Path) -> None:
    async with (
        Engine(tmp_path / "app.db", services=[echo], control_socket=False) as engine,
        served(ingress.create_app(engine)) as url,
        durable.connect(url) as client,
        httpx.AsyncClient() as stranger,
    ):
        assert same(await client.call(echo, BERLIN), BERLIN)
        handle = await client.send(echo, BERLIN)
        assert same(await handle.result(), BERLIN)
        answer = await stranger.post(f"{url}/Calendar/echo", json=NAMED)
        assert answer.json() == "2026-07-01T12:00:00+02:00"
        answer = await stranger.get(f"{url}/restate/attach/{handle.id}")
        assert answer.json() == "2026-07-01T12:00:00+02:00"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
