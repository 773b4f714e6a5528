"""What an application says in its handlers and steps: marked with its invocation, and said once."""

import asyncio
import io
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    InvocationFilter,
    ObjectContext,
    ReplayFilter,
    RetryPolicy,
    VirtualObject,
    handler,
)
from durable.telemetry.logs import FIELDS, fields, replaying
from durable.testing import MemoryStore, Sim, check, simulate
from durable.testing.modes import Mode

shop = logging.getLogger("shop")


class Listener(logging.Handler):
    """Keeps what reaches it."""

    def __init__(self, *filters: logging.Filter) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        for one in filters:
            self.addFilter(one)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@contextmanager
def listening(*filters: logging.Filter, to: str = "shop") -> Iterator[Listener]:
    logger, listener = logging.getLogger(to), Listener(*filters)
    before = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield listener
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before)


# ---- a line is said once ----


async def charge(order: str) -> str:
    shop.info("charging")
    return f"payment for {order}"


@handler(service="Shop")
async def checkout(ctx: Context, order: str) -> str:
    shop.info("begins")
    payment = await ctx.run(charge, order)
    shop.info("paid")
    first, second = ctx.sleep(1), ctx.sleep(2)
    shop.info("both sleep")
    await second
    await first
    shop.info("slept")
    child = await ctx.call(pack, order)
    shop.info("packed")
    return f"{payment}, {child}"


@handler(service="Shop")
async def pack(ctx: Context, order: str) -> str:
    await ctx.sleep(1)
    return f"{order} is packed"


LINES = ("begins", "paid", "slept", "packed")  # "both sleep" is behind the last record, until the call is made


def test_each_line_is_said_however_the_handler_is_disturbed_and_again_only_after_a_disturbance() -> None:
    async def scenario(sim: Sim) -> Any:
        with listening(ReplayFilter()) as listener:
            result = await sim.call(checkout, "o-1")
        said = Counter(listener.lines)
        for line in LINES:
            assert 1 <= said[line] <= 1 + sim.log.crashes + sim.log.restarts, line
        return result

    assert check(lambda sim: [checkout, pack], scenario) == "payment for o-1, o-1 is packed"


def test_of_a_handler_that_is_suspended_at_every_wait_each_line_is_said_exactly_once() -> None:
    async def scenario(sim: Sim) -> None:
        with listening(ReplayFilter()) as listener, listening() as everything:
            await sim.call(checkout, "o-1")
        again = [line for line in listener.lines if line != "both sleep"]  # behind the last thing that is recorded
        assert again == ["begins", "charging", "paid", "slept", "packed"]
        assert Counter(everything.lines)["begins"] >= 3

    simulate(lambda sim: [checkout, pack], scenario, Mode("suspended", always_suspend=True))


def test_a_retried_handler_says_again_what_no_record_proves_and_nothing_else() -> None:
    seen: list[bool] = []

    @handler(service="Shop", retry=RetryPolicy(initial_interval=0.01, max_attempts=3))
    async def flaky(ctx: Context) -> None:
        shop.info("before the record")
        ctx.now()
        shop.info("behind it, before the next")
        ctx.now()
        seen.append(replaying())
        shop.info("attempt %d", ctx.request.attempt)
        if ctx.request.attempt < 3:
            raise ConnectionError

    async def scenario(sim: Sim) -> None:
        with listening(ReplayFilter()) as listener:
            await sim.call(flaky)
        assert listener.lines == [
            "before the record", "behind it, before the next", "attempt 1", "attempt 2", "attempt 3",
        ]  # fmt: skip
        assert seen == [False, False, False]

    simulate(lambda sim: [flaky], scenario)


def test_what_the_engine_says_of_a_replaying_handler_passes() -> None:
    record = logging.makeLogRecord({"name": "durable.invocation"})
    assert ReplayFilter().filter(record)
    assert ReplayFilter().filter(logging.makeLogRecord({"name": "shop"}))
    assert not replaying()


# ---- a line says whose it is ----


def in_a_thread(what: str) -> None:
    shop.info(what)


class Cart(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext) -> None:
        shop.info("in the handler")
        await asyncio.gather(*[self.flow(ctx, number) for number in range(2)])
        await ctx.with_options(name="threaded").run(in_a_thread, "in a thread")
        beside = ctx.run(in_a_thread, "beside")
        ctx.now()
        await beside

    async def flow(self, ctx: ObjectContext, number: int) -> None:
        shop.info("in flow %d", number)


def test_lines_of_handlers_their_flows_and_their_steps_have_the_fields_of_the_invocation() -> None:
    async def main() -> str:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            handle = await engine.send(Cart.add, key="ada")
            await handle.result()
            shop.info("outside")
            return handle.id

    with listening(InvocationFilter()) as listener:
        id = asyncio.run(main())
    marked = {
        record.getMessage(): [getattr(record, name) for name in FIELDS if name != "invocation_id"]
        for record in listener.records
    }
    ours = ["Cart/ada/add", "ada", 1]
    assert marked == {
        "in the handler": [*ours, None, None, None],
        "in flow 0": [*ours, None, None, None],
        "in flow 1": [*ours, None, None, None],
        "in a thread": [*ours, "threaded", None, None],
        "beside": [*ours, "in_a_thread", None, None],
        "outside": [None] * 6,
    }
    assert {record.invocation_id for record in listener.records} == {id, None}  # type: ignore[attr-defined]


def test_each_attempt_says_its_own_number_and_a_step_is_no_replay() -> None:
    said: list[tuple[Any, bool]] = []

    async def fail() -> None:
        said.append((fields()["attempt"], replaying()))
        if len(said) < 3:
            raise ConnectionError

    @handler(service="Shop", retry=RetryPolicy(initial_interval=0.01))
    async def flaky(ctx: Context) -> None:
        ctx.now()
        ctx.now()
        await ctx.run(fail)

    async def scenario(sim: Sim) -> None:
        await sim.call(flaky)

    simulate(lambda sim: [flaky], scenario)
    assert said == [(1, False), (2, False), (3, False)]
    assert fields() == {}


def test_what_a_record_has_already_it_keeps() -> None:
    record = logging.makeLogRecord({"name": "shop", "key": "mine"})
    assert InvocationFilter().filter(record)
    assert (record.key, record.target) == ("mine", None)  # type: ignore[attr-defined]


def test_a_format_that_names_the_fields_works_for_every_line_of_the_process() -> None:
    written = io.StringIO()
    output = logging.StreamHandler(written)
    output.setFormatter(logging.Formatter("%(invocation_id)s %(attempt)s %(step)s %(message)s"))
    output.addFilter(InvocationFilter())

    async def main() -> None:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            await engine.call(Cart.add, key="ada")

    root = logging.getLogger()
    root.addHandler(output)
    level, root.level = root.level, logging.INFO
    try:
        asyncio.run(main())
        root.warning("outside")
    finally:
        root.removeHandler(output)
        root.setLevel(level)
    assert "None None None outside" in written.getvalue()
    assert " 1 threaded in a thread" in written.getvalue()


@pytest.mark.parametrize("parent", ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", "nonsense", ""])
def test_a_trace_that_the_invocation_was_started_in_marks_its_lines(parent: str) -> None:
    async def main() -> None:
        async with Engine(services=[Cart()], store=MemoryStore()) as engine:
            await engine.call(Cart.add, key="ada", headers={"traceparent": parent} if parent else {})

    with listening(InvocationFilter()) as listener:
        asyncio.run(main())
    traces = {(record.trace_id, record.span_id) for record in listener.records}  # type: ignore[attr-defined]
    assert traces == {("a" * 32, "b" * 16) if parent.startswith("00") else (None, None)}
