"""C-091: what goes in is what comes out, live and replayed, or it is refused where it goes in, or the table says."""

import asyncio
import datetime
import decimal
import json
import os
import pathlib
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import Engine, SerializationError, TerminalError, Workflow, WorkflowContext, handler
from durable.serde import serde_for
from durable.subclasses import attributes_of, made
from durable.testing import MemoryStore
from tests.runtime.support import settled
from tests.values import table
from tests.values.program import main
from tests.values.table import CASES, REFUSED, UNDECLARED, WORDS, Animal, Box, Case, Color, Dog, same

PAGE = Path(__file__).parents[2] / "docs" / "values.md"
REFUSALS = [case for case in CASES if case.back is REFUSED]


def test_each_value_comes_back_through_each_door_and_a_replay_in_another_process_sees_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "values.db")
    asyncio.run(main(path, replayed=False))
    live = json.loads(capsys.readouterr().out)
    program = [sys.executable, "-m", "tests.values.program", path, "replayed"]
    told = subprocess.run(program, capture_output=True, text=True, timeout=100, cwd=PAGE.parents[1])
    assert told.returncode == 0, told.stderr
    for seen, patched in (live, json.loads(told.stdout)):
        assert {what: doors for what, doors in seen.items() if doors} == {}
        assert len(seen) == len([case for case in CASES if case.back not in WORDS])
        assert patched == {}


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.what)
def test_what_would_come_back_as_something_else_is_refused(case: Case) -> None:
    with pytest.raises(SerializationError, match="cannot write a value of type"):
        serde_for(case.annotation).encode(case.value())


@pytest.mark.parametrize("case", [case for case in CASES if case.back is UNDECLARED], ids=lambda case: case.what)
def test_a_type_that_cannot_be_read_back_is_refused_where_it_is_declared(case: Case) -> None:
    with pytest.raises(SerializationError, match="cannot store"):
        serde_for(case.annotation)


def test_a_validator_runs_at_each_reading() -> None:
    over = False

    class Offer(pydantic.BaseModel):
        sku: str

        @pydantic.field_validator("sku")
        @classmethod
        def is_open(cls, sku: str) -> str:
            if over:
                raise ValueError("the offer is over")
            return sku

    serde = serde_for(Offer)
    data = serde.encode(Offer(sku="a"))
    assert serde.decode(data) == Offer(sku="a")
    over = True
    with pytest.raises(SerializationError, match="the offer is over"):
        serde.decode(data)


def test_an_attribute_of_an_error_comes_back_by_its_annotation_or_as_json_has_it() -> None:
    class Late(TerminalError):
        since: datetime.date

    error = Late("late")
    error.since = error.until = datetime.date(2026, 1, 1)  # type: ignore[attr-defined]
    back: Any = made(Late, "late", 500, {}, attributes_of(error, 1000))
    assert (back.since, back.until) == (datetime.date(2026, 1, 1), "2026-01-01")


def test_a_refusal_names_the_door_and_what_would_be_lost() -> None:
    async def step() -> Animal:
        return Dog("a")

    class Doors(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext, door: str) -> Animal | None:
            if door == "step":
                await ctx.run(step)
            if door == "state":
                ctx.set("pet", Dog("a"), Animal)
            if door == "promise":
                await ctx.promise("pet", Animal).resolve(Dog("a"))
            if door == "argument":
                await ctx.call(Doors.take, Dog("a"), key=ctx.key)
            return Dog("a") if door == "result" else None

        @handler
        async def take(self, ctx: Any, pet: Animal) -> None: ...

    async def story() -> None:
        async with Engine(services=[Doors()], store=MemoryStore()) as engine:
            for door, called in {
                "step": "the result of step 'step'",
                "state": "the state value 'pet'",
                "promise": "the value of promise 'pet'",
                "argument": "the argument of Doors/take",
                "result": "the result of Doors/run",
            }.items():
                failure = (await settled(engine, (await engine.send(Doors.run, door, key=door)).id)).last_failure
                assert failure is not None
                assert called in failure.message, failure.message
                assert "is of the class `Dog` and would come back as `Animal`" in failure.message
            with pytest.raises(SerializationError, match=r"the argument of Doors/take: .* `Animal`"):
                await engine.call(Doors.take, Dog("a"), key="k")

    asyncio.run(story())


def test_the_page_of_the_documentation_is_the_table() -> None:
    if os.environ.get("REWRITE_VALUES"):
        PAGE.write_text(table.page())
    assert PAGE.read_text() == table.page(), "REWRITE_VALUES=1 pytest tests/values"


ZONED = st.datetimes(timezones=st.just(ZoneInfo("Europe/Berlin")) | st.just(datetime.UTC))
PLAIN: list[Any] = [
    int, str, bool, None, datetime.date, datetime.datetime, datetime.time, datetime.timedelta, decimal.Decimal,
    uuid.UUID, Color, Path,
]  # fmt: skip
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**62), 2**62),
    str: st.text(max_size=5),
    bool: st.booleans(),
    None: st.none(),
    datetime.date: st.dates(),
    datetime.datetime: st.datetimes() | ZONED,
    datetime.time: st.times(timezones=st.none() | st.just(ZoneInfo("Europe/Berlin"))),
    datetime.timedelta: st.timedeltas(),
    decimal.Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    uuid.UUID: st.uuids(),
    Color: st.sampled_from(Color),
    Path: st.text("abc/", min_size=1, max_size=5).map(pathlib.Path),
}


@st.composite
def nested(draw: st.DrawFn, depth: int = 3) -> tuple[Any, st.SearchStrategy[Any]]:
    """An annotation, and its values."""
    shape = draw(st.sampled_from(["plain", "list", "dict", "pair", "optional", "box"] if depth else ["plain"]))
    if shape == "plain":
        kind = draw(st.sampled_from(PLAIN))
        return kind, VALUES[kind]
    inner, values = draw(nested(depth - 1))
    if shape == "list":
        return list[inner], st.lists(values, max_size=3)  # type: ignore[valid-type]
    if shape == "dict":
        key = draw(st.sampled_from([str, int, datetime.date, datetime.datetime, uuid.UUID, Color]))
        return dict[key, inner], st.dictionaries(VALUES[key], values, max_size=3)  # type: ignore[valid-type]
    if shape == "pair":
        return tuple[inner, int], st.tuples(values, VALUES[int])  # type: ignore[valid-type]
    if shape == "box":
        return Box[inner], values.map(lambda value: Box(value))  # type: ignore[valid-type]
    return (inner | None) if inner is not None else inner, st.none() | values


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_nested_annotations_give_back_what_they_were_given(data: st.DataObject) -> None:
    annotation, values = data.draw(nested())
    value = data.draw(values)
    serde = serde_for(annotation)
    assert same(value, serde.decode(serde.encode(value)))
