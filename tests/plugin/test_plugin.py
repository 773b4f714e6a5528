"""The pytest plug-in, as a project uses it: under each plug-in that awaits tests, with crashes, with an app."""

import gc
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest_plugins = "pytester"

HERE = Path(__file__).parents[2]

SHOP = """
    import asyncio
    import random
    import time

    from durable import Context, ObjectContext, VirtualObject, Workflow, WorkflowContext, handler

    charged = []

    def charge(order):
        time.sleep(0.001)  # in a thread
        charged.append(order)
        return f"charged {order}"

    @handler(service="Shop")
    async def checkout(ctx: Context, order: str) -> str:
        payment = await ctx.run(charge, order)
        await ctx.sleep("2 days")
        return payment

    class Counter(VirtualObject):
        @handler
        async def add(self, ctx: ObjectContext, number: int) -> int:
            count = (await ctx.get("count", int) or 0) + number
            ctx.set("count", count)
            return count

    class Deal(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            try:
                return "agreed" if await ctx.promise("agreed", bool).with_timeout("1 day") else "declined"
            except TimeoutError:
                return "expired"

    async def work(number):
        return number

    dice = random.Random(1)

    @handler(service="Wrong")
    async def decides_by_chance(ctx: Context) -> None:
        if dice.random() < 0.5:
            await ctx.run(work, 1)
        else:
            await ctx.sleep("1s")
        await ctx.sleep("1h")
        await ctx.run(work, 2)

    @handler(service="Wrong")
    async def forgets(ctx: Context) -> None:
        ctx.run(work, 1)

    @handler(service="Wrong")
    async def waits(ctx: Context) -> None:
        await ctx.awakeable()
"""

CONFTEST = """
    import pytest
    import shop

    @pytest.fixture
    def durable_services():
        return [shop.checkout, shop.Counter(), shop.Deal(), shop.decides_by_chance, shop.forgets, shop.waits]

    @pytest.fixture
    def durable_options():
        return {"journal_retention": "30 days"}

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.fixture(autouse=True)
    def nothing_charged():
        shop.charged.clear()
"""

GOOD = """
    import asyncio
    import pytest
    from durable import Engine, InvalidRequestError, TerminalError
    from shop import Counter, Deal, charged, checkout

    pytestmark = [*MARKS, pytest.mark.durable_crash]

    async def test_waiting_takes_no_time(durable_engine):
        assert isinstance(durable_engine, Engine)
        began = asyncio.get_running_loop().time()
        orders = [durable_engine.call(checkout, f"o-{number}") for number in range(3)]
        assert await asyncio.gather(*orders) == ["charged o-0", "charged o-1", "charged o-2"]
        assert asyncio.get_running_loop().time() - began >= 2 * 86_400
        assert 3 <= len(charged) <= 3 + 3 * durable_engine.interruptions

    async def test_time_is_moved_by_hand(durable_engine, durable_clock):
        order = await durable_engine.send(checkout, "o-1")
        await durable_clock.advance("47 hours")
        assert (await order.describe()).status != "completed"
        await durable_clock.advance("1 hour")
        await durable_clock.advance("1 hour" if durable_engine.interruptions else 0)  # an attempt after a crash waits
        assert (await order.describe()).status == "completed"
        assert await order.output() == "charged o-1"
        assert (await durable_engine.describe(order.id)).journal

    async def test_what_does_not_wait_does_not_move_time(durable_engine):
        late = await durable_engine.send(Deal.run, key="late")
        deal = await durable_engine.send(Deal.run, key="k")
        await durable_engine.resolve_promise("Deal", "k", "agreed", True)
        assert await deal.result() == "agreed"
        with pytest.raises(TerminalError, match="was already started"):
            await durable_engine.call(Deal.run, key="k")
        assert await durable_engine.workflow(Deal.run, "late").result() == "expired"
        with pytest.raises(InvalidRequestError):
            await durable_engine.describe("nonsense")

    class TestCounting:
        async def test_once(self, durable_engine):
            assert await durable_engine.call(Counter.add, 1, key="a") == 1
            assert await durable_engine.call(Counter.add, 2, key="a") == 3
            assert await durable_engine.get_state("Counter", "a") == {"count": 3}

    def test_an_ordinary_test_runs_an_event_loop_of_its_own(durable_engine):
        async def story():
            return await durable_engine.call(Counter.add, 1, key="a")

        assert asyncio.run(story()) == 1
"""


def project(pytester: pytest.Pytester, **files: str) -> None:
    """A shop, and these tests."""
    pytester.makepyfile(shop=SHOP, conftest=CONFTEST, **files)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")


def run(pytester: pytest.Pytester, *options: str, awaits: str = "anyio") -> pytest.RunResult:
    """Run them, with the plug-in and one that awaits tests."""
    chosen = {
        "anyio": ["-p", "no:asyncio"],
        "asyncio strict": ["-p", "no:anyio", "--asyncio-mode=strict", *SCOPE],
        "asyncio auto": ["-p", "no:anyio", "--asyncio-mode=auto", *SCOPE],
    }[awaits]
    if awaits != "anyio" and find_spec("pytest_asyncio") is None:
        assert not os.environ.get("CI"), "CI has pytest-asyncio"
        pytest.skip("pytest-asyncio is not here")
    result = pytester.runpytest_inprocess("-p", "pytest_durable", "-p", "no:schemathesis", *chosen, *options)
    gc.collect()  # what was left open is complained of here, and not in the test of somebody else
    return result


SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")
AWAITS = pytest.mark.parametrize("awaits", ["anyio", "asyncio strict", "asyncio auto"])
MARKS = {"anyio": "[pytest.mark.anyio]", "asyncio strict": "[]", "asyncio auto": "[]"}


def marked(tests: str, awaits: str) -> str:
    """The same tests, marked as that plug-in wants it."""
    text = tests.replace("MARKS", MARKS[awaits])
    if awaits == "asyncio strict":
        text = text.replace("async def test_", "@pytest.mark.asyncio\n    async def test_")
        text = text.replace("    class TestCounting:\n        @pytest.mark.asyncio\n    ", CLASS)
    return text


CLASS = "    class TestCounting:\n        @pytest.mark.asyncio\n        "


@AWAITS
@pytest.mark.parametrize("how", ["", "every-commit"])
def test_an_engine_in_asynchronous_tests_undisturbed_and_with_crashes(
    pytester: pytest.Pytester, awaits: str, how: str
) -> None:
    project(pytester, test_shop=marked(GOOD, awaits))
    result = run(pytester, *([f"--durable-crash={how}"] if how else []), awaits=awaits)
    result.assert_outcomes(passed=5)


BESIDE = """
    import pytest
    import PLUGIN
    from shop import Counter

    @PLUGIN.fixture
    async def counted(durable_engine):
        await durable_engine.call(Counter.add, 5, key="a")
        yield "a"
        assert await durable_engine.call(Counter.add, 0, key="a") == 6

    async def test_counting(counted, durable_engine):
        assert await durable_engine.call(Counter.add, 1, key=counted) == 6
"""


@AWAITS
def test_asynchronous_fixtures_use_the_engine_before_the_test_and_after_it(
    pytester: pytest.Pytester, awaits: str
) -> None:
    test = BESIDE.replace("PLUGIN", "pytest" if awaits == "anyio" else "pytest_asyncio")
    mark = {"anyio": "@pytest.mark.anyio\n", "asyncio strict": "@pytest.mark.asyncio\n", "asyncio auto": ""}[awaits]
    project(pytester, test_shop=textwrap.dedent(test).replace("async def test_", f"{mark}async def test_"))
    run(pytester, awaits=awaits).assert_outcomes(passed=1)


def test_a_failure_says_what_is_wrong_and_where_everybody_stands(pytester: pytest.Pytester) -> None:
    project(
        pytester,
        test_shop="""
            import asyncio
            import pytest
            import shop

            pytestmark = pytest.mark.anyio

            async def test_chance(durable_engine, durable_clock):
                for _ in range(10):
                    await durable_engine.send(shop.decides_by_chance)
                await durable_clock.advance("1 day")

            async def test_forgotten(durable_engine):
                await durable_engine.call(shop.forgets)

            async def test_nothing_goes_on(durable_engine):
                await durable_engine.call(shop.waits)

            async def test_assertion(durable_engine):
                waits = await durable_engine.send(shop.waits)
                assert await durable_engine.call(shop.Counter.add, 1, key="a") == 2
        """,
    )
    result = run(pytester, "--tb=short")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "*NotDeterministic: Wrong/decides_by_chance inv_1*: JournalMismatchError: entry 1: the journal has *",
            "*ForgottenAwait: Wrong/forgets: the handler ended and never awaited ctx.run(work) at *shop.py:*",
            "*SimulationStuck: *",
            "*Wrong/waits inv_1* is suspended: waits for awakeable (entry 1)",
            "*assert 1 == 2",
            "*- durable -*",
            "Wrong/waits inv_1* is running: waits for awakeable (entry 1)",
        ]
    )


def test_a_test_that_a_crash_breaks_says_how_it_is_run_again(pytester: pytest.Pytester) -> None:
    project(
        pytester,
        test_shop="""
            import pytest
            import shop

            pytestmark = pytest.mark.anyio
            runs = []

            @pytest.mark.durable_crash
            async def test_charged_once(durable_engine):
                runs.append(durable_engine.mode.name)
                await durable_engine.call(shop.checkout, "o-1")
                assert shop.charged == ["o-1"]

            async def test_not_marked(durable_engine):
                assert runs in (["undisturbed"], ["undisturbed", *runs[1:]], ["before commit 3"])
                await durable_engine.call(shop.checkout, "o-1")
                assert shop.charged == ["o-1"]
        """,
    )
    run(pytester).assert_outcomes(passed=2)
    run(pytester, "--durable-crash=every-await").assert_outcomes(passed=2)
    result = run(pytester, "--durable-crash=every-commit")
    result.assert_outcomes(passed=1, failed=1)
    again = "pytest test_shop.py::test_charged_once --durable-crash='before commit 3'"
    result.stdout.fnmatch_lines(["failed in mode 'before commit 3' (seed 0); to run it again:", f"    {again}"])
    result = run(pytester, "test_shop.py::test_charged_once", "--durable-crash=before commit 3")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"    {again}"])
    run(pytester, "test_shop.py::test_charged_once", "--durable-crash=before commit 2").assert_outcomes(passed=1)


def test_a_mode_that_is_none_is_refused(pytester: pytest.Pytester) -> None:
    project(pytester, test_shop="def test_nothing(): ...")
    result = run(pytester, "--durable-crash=now and then")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--durable-crash takes every-commit, every-restart, every-await, all, or *"])


def test_an_engine_without_services_says_where_to_give_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(durable_engine): ...")
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*define a fixture `durable_services` that returns your handlers and services*"])


def test_fixtures_are_new_for_each_mode_and_what_is_above_stays(pytester: pytest.Pytester) -> None:
    """And a fixture of a module that fails in the end is reported."""
    project(
        pytester,
        test_shop="""
            import pytest
            import shop

            made = []

            @pytest.fixture(scope="module")
            def above():
                made.append("above")
                yield
                assert len(made) < 5, "torn down"

            @pytest.fixture
            def own(above):
                made.append("own")

            @pytest.mark.anyio
            @pytest.mark.durable_crash
            async def test_counting(own, durable_engine):
                assert made.count("above") == 1
                await durable_engine.call(shop.Counter.add, 1, key="a")
        """,
        test_then="def test_nothing(): ...",
    )
    run(pytester).assert_outcomes(passed=2)
    result = run(pytester, "--durable-crash=all")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*AssertionError: torn down"])


APP = """
    import asyncio
    import warnings

    import pytest
    import shop
    from durable import UsageError
    from durable.fastapi import Durable, install
    from fastapi import FastAPI

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient

    def create_app(engine):
        app = FastAPI(lifespan=engine.lifespan)
        install(app, engine)

        @app.post("/orders/{order}", status_code=202)
        async def accept(order: str, engine: Durable) -> str:
            return (await engine.send(shop.checkout, order, idempotency_key=order)).id

        @app.get("/orders/{order}")
        async def look(order: str, engine: Durable) -> str:
            return (await engine.idempotent(shop.checkout, order).describe()).status

        @app.get("/wrong")
        async def forget(engine: Durable) -> None:
            await engine.call(shop.forgets)

        return app

    @pytest.fixture
    def client(durable_app_engine):
        with TestClient(create_app(durable_app_engine)) as client:
            yield client

    def test_an_order_takes_two_days(client, durable_app_clock):
        assert client.post("/orders/lamp").status_code == 202
        durable_app_clock.advance("47 hours")
        assert client.get("/orders/lamp").json() in ("running", "suspended")
        durable_app_clock.advance("2 hours")
        assert client.get("/orders/lamp").json() == "completed"

    def test_an_app_that_is_left_and_entered_again(durable_app_engine, durable_app_clock):
        app = create_app(durable_app_engine)
        for status in ("running", "completed"):
            with TestClient(app) as client:
                client.post("/orders/lamp")
                durable_app_clock.advance("25 hours")
                assert client.get("/orders/lamp").json() == status or status == "running"
        with pytest.raises(UsageError, match="entering your app's TestClient"):
            durable_app_clock.advance("1 day")

    def test_a_handler_that_forgets(client):
        client.get("/wrong")
"""


def test_an_app_is_tested_with_its_client_and_time_moved_by_hand(pytester: pytest.Pytester) -> None:
    project(pytester, test_app=APP)
    result = run(pytester)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*ForgottenAwait: Wrong/forgets: the handler ended and never awaited *"])


def test_pytest_starts_without_importing_the_engine() -> None:
    code = (
        "import sys, pytest_durable\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'durable', 'anyio', 'msgspec'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE)
    assert done.stdout.split() == []
