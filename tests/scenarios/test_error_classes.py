"""C-090: a subclass of TerminalError comes back as that class, with its attributes, to whoever gets it."""

import asyncio
import copy
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from durable import (
    Context,
    DurableTimeoutError,
    Engine,
    InvocationCancelled,
    RetryableError,
    RetryPolicy,
    TerminalError,
    UsageError,
    connect,
    handler,
)
from durable.ingress import create_app
from durable.log import About
from durable.outcomes import error_of, outcome_of
from durable.runtime.failures import failure_of_exception, retry_after_ms
from durable.testing import Sim, check


class OutOfStock(TerminalError):
    price: Decimal

    def __init__(self, sku: str, left: int, since: datetime) -> None:
        super().__init__(f"{sku}: {left} left", 409, {"sku": sku})
        self.sku = sku
        self.left = left
        self.since = since
        self.price = Decimal("1.50")
        self.tags = ["a", {"b": None}]
        self._checked = True


@dataclass(frozen=True)
class Refused(TerminalError):
    """It never calls `super().__init__`."""

    by: str
    receipt: bytes = b"\xff\x00"
    code = 402


class Slotted(TerminalError, KeyError):
    __slots__ = ("place",)
    place: str

    def __str__(self) -> str:
        return f"at {self.place}"


class TooSlow(DurableTimeoutError):
    limit = "10s"


class Withdrawn(InvocationCancelled):
    def __init__(self, *, by: str) -> None:
        super().__init__(f"withdrawn by {by}")
        self.by = by


SINCE = datetime(2026, 11, 29, 17, 45, tzinfo=UTC)


def slotted() -> Slotted:
    error = Slotted("not there", 404)
    error.place = "/srv"
    return error


ERRORS: dict[str, TerminalError] = {
    "out of stock": OutOfStock("apple", 0, SINCE),
    "refused": Refused("the bank"),
    "slotted": slotted(),
    "too slow": TooSlow("too slow"),
    "withdrawn": Withdrawn(by="Ada"),
    "plain": TerminalError("plain", 418, {"tea": "green"}),
}


def told(error: TerminalError) -> list[Any]:
    """All that can be seen of it."""
    attributes = {name: value for name, value in vars(error).items() if name not in ("message", "code", "metadata")}
    if isinstance(error, Slotted):
        attributes["place"] = error.place
    return [type(error), error.code, dict(error.metadata), attributes, isinstance(error, KeyError)]


@pytest.mark.parametrize("name", ERRORS)
def test_a_handler_gets_the_class_it_would_get_without_the_engine_live_and_replayed(name: str) -> None:
    def services(sim: Sim) -> Iterable[object]:
        async def step() -> None:
            raise copy.copy(ERRORS[name])

        @handler(service="S")
        async def fails(ctx: Context) -> None:
            raise copy.copy(ERRORS[name])

        @handler(service="S", retry=RetryPolicy(max_attempts=1))
        async def go(ctx: Context) -> list[bool]:
            same = []
            for one in (ctx.run(step), ctx.call(fails)):
                try:
                    await one
                except type(ERRORS[name]) as error:
                    same.append(told(error) == told(ERRORS[name]))
            await ctx.sleep("1s")
            return same

        return [fails, go]

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("S/fails")
        with pytest.raises(type(ERRORS[name])) as caught:
            await sim.result(handle.id)
        assert told(caught.value) == told(ERRORS[name])
        return await sim.call("S/go")

    assert check(services, scenario) == [True, True]


@pytest.mark.parametrize("name", ERRORS)
def test_it_can_be_copied_and_pickled(name: str) -> None:
    error = ERRORS[name]
    assert told(pickle.loads(pickle.dumps(error))) == told(error)
    assert str(copy.deepcopy(error)) == str(error)


def test_a_client_in_another_process_gets_it_and_a_page_of_the_web_does_not(tmp_path: Path) -> None:
    @handler(service="S")
    async def fails(ctx: Context, name: str) -> None:
        raise ERRORS[name]

    async def story() -> None:
        async with Engine(tmp_path / "db", services=[fails]) as engine, connect(tmp_path / "db") as client:
            for name, error in ERRORS.items():
                for asked in (engine, client):
                    with pytest.raises(TerminalError) as caught:
                        await asked.call(fails, name)
                    assert told(caught.value) == told(error)
            web = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(engine)), base_url="http://localhost")
            async with web:
                answer = (await web.post("/S/fails", json="out of stock")).json()
            assert answer == {
                "code": 409, "message": "apple: 0 left", "source": "invocation", "metadata": {"sku": "apple"}
            }  # fmt: skip

    asyncio.run(story())


def test_where_the_class_is_not_there_it_is_a_terminal_error_with_its_name_and_what_it_had() -> None:
    stored = outcome_of(ERRORS["out of stock"])
    gone = type(stored)(False, stored.value.replace(b":OutOfStock", b":SoldOut"))
    error = error_of(gone)
    assert type(error) is TerminalError
    assert (error.class_name, error.message, error.code) == (f"{__name__}:SoldOut", "apple: 0 left", 409)
    assert cast(Any, error).left == 0
    assert outcome_of(error) == gone  # raised again, it is what it was


def test_of_a_class_that_is_made_anew_each_time_the_last_one_is_found() -> None:
    def made() -> type[TerminalError]:
        class Local(TerminalError):
            pass

        return Local

    classes = [made() for _ in range(3)]
    assert type(error_of(outcome_of(classes[0]("x")))) is classes[-1]


def test_what_cannot_be_stored_is_left_out_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Attached(TerminalError):
        pass

    error = Attached("no")
    error.__dict__.update(lock=asyncio.Lock(), size=3, much="x" * 100_000)
    back = error_of(outcome_of(error))
    assert (type(back), vars(back)["size"], "lock" in vars(back), "much" in vars(back)) == (Attached, 3, False, False)
    assert "lock, much" in caplog.text


def test_what_is_too_long_takes_nothing_else_with_it() -> None:
    error = OutOfStock("lamp", 0, datetime.now(UTC))
    error.__dict__ = {"body": "x" * 100_000, **error.__dict__}
    found = cast(OutOfStock, error_of(outcome_of(error)))
    assert not hasattr(found, "body") and (found.sku, found.left) == ("lamp", 0)


@pytest.mark.parametrize("code", [200, 0, 600, True, "409", None, 404.0])
def test_a_code_that_is_none_of_an_error_is_refused_where_the_error_is_made(code: Any) -> None:
    with pytest.raises(UsageError, match="400 to 599"):
        TerminalError("no", code)


def test_a_code_may_be_an_http_status() -> None:
    assert TerminalError("no", HTTPStatus.CONFLICT).code == 409


@pytest.mark.parametrize("metadata", [{"pot": 1}, {2: "x"}, ["x"], "x", {"x": None}])
def test_metadata_that_is_not_text_is_refused_where_the_error_is_made(metadata: Any) -> None:
    with pytest.raises(UsageError, match="metadata"):
        TerminalError("no", 500, metadata)


def test_a_saga_undoes_whatever_ends_its_invocation_and_nothing_else() -> None:
    """What was raised from a terminal error, and groups of nothing else, end an invocation."""

    def ends(how: str) -> None:
        if how == "from":
            raise ValueError("wrapped") from TerminalError("inner", 418)
        if how == "group":
            raise ExceptionGroup("two", [TerminalError("first", 401), ValueError("second")])
        if how == "terminal group":
            raise ExceptionGroup("two", [TerminalError("first", 418), TerminalError("second", 419)])
        if how == "again":
            raise RetryableError("not yet") from TerminalError("inner", 418)

    def services(sim: Sim) -> Iterable[object]:
        async def undo(how: str) -> None:
            sim.effect(f"undone {how}")

        @handler(service="S", retry=RetryPolicy(max_attempts=2, initial_interval="10ms", on_max_attempts="kill"))
        async def go(ctx: Context, how: str) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, how)
                ends(how)

        return [go]

    async def scenario(sim: Sim) -> Any:
        codes = []
        for how in ("from", "group", "terminal group", "again"):
            handle = await sim.send("S/go", how)
            with pytest.raises(TerminalError) as caught:
                await sim.result(handle.id)
            codes.append(caught.value.code)
        undone = {what for what in sim.effects if what.startswith("undone")}
        assert undone == {"undone from", "undone terminal group"}
        return codes

    assert check(services, scenario) == [418, 500, 418, 500]


def test_a_group_is_retried_after_the_longest_time_that_one_of_its_errors_names() -> None:
    both = ExceptionGroup("both", [RetryableError("a", "1h"), RetryableError("b", "2h"), ValueError("c")])
    assert failure_of_exception(both) is None
    assert retry_after_ms(both, About("inv_1", "S/go")) == 2 * 60 * 60 * 1000
