"""The pytest plug-in of durable: fixtures for tests of an application, and tests with crashes.

    @pytest.fixture
    def durable_services():
        return [checkout, Parcels()]

    async def test_checkout(durable_engine, durable_clock):
        order = await durable_engine.send(checkout, "o-1")
        await durable_clock.advance("2 days")
        assert await order.result() == "shipped"

It is no module of the package `durable`, so that pytest starts without importing that; whatever it needs is imported
where a test asks for it. `docs/testing.md` is its documentation.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from durable.testing.clocks import ClockByHand, VirtualClock
    from durable.testing.engines import AppEngine, InMemoryEngine, SimulatedEngine
    from durable.testing.modes import Mode

#: What `--durable-crash` takes, beside the name of a mode.
GROUPS = ("every-commit", "every-restart", "every-await", "all")

_mode: pytest.StashKey[Mode] = pytest.StashKey()
_engine: pytest.StashKey[InMemoryEngine] = pytest.StashKey()
_commits = pytest.StashKey[int]()
_notes = pytest.StashKey[list[str]]()


# ---- options ----


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line."""
    group = parser.getgroup("durable", "tests with crashes (durable)")
    group.addoption(
        "--durable-crash",
        metavar="HOW",
        help="run tests marked `durable_crash` again with crashes: every-commit (before and after each), "
        "every-restart (a clean one at each commit), every-await (suspended at each), all; or in one mode, by name",
    )
    group.addoption(
        "--durable-seed", type=int, default=0, help="of a test with very many commits, draw them by this (default: 0)"
    )
    group.addoption(
        "--durable-most", type=int, default=60, help="how many commits of a test are tried at most (default: 60)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker, and whether the command line makes sense."""
    config.addinivalue_line(
        "markers", "durable_crash: with --durable-crash, run again while the engine of `durable_engine` dies"
    )
    how = config.getoption("durable_crash")
    if how is not None and how not in GROUPS:
        from durable.errors import UsageError
        from durable.testing.modes import mode_named

        try:
            mode_named(how)
        except UsageError as error:
            raise pytest.UsageError(f"--durable-crash takes {', '.join(GROUPS)}, or a mode: {error}") from None


# ---- fixtures ----


@pytest.fixture
def durable_services() -> Iterable[object]:
    """What the engine serves: define a fixture of this name that returns your handlers and services."""
    pytest.fail(
        "durable_engine needs to know what it serves: define a fixture `durable_services` that returns your handlers "
        "and services, in the test's module or in conftest.py",
        pytrace=False,
    )


@pytest.fixture
def durable_options() -> Mapping[str, Any]:
    """Options of `Engine`, as a dict: define a fixture of this name to give some."""
    return {}


@pytest.fixture
def durable_engine(
    request: pytest.FixtureRequest, durable_services: Iterable[object], durable_options: Mapping[str, Any]
) -> Generator[SimulatedEngine]:
    """A running engine for asynchronous tests, in memory and in virtual time."""
    from durable.testing.engines import SimulatedEngine
    from durable.testing.modes import UNDISTURBED

    mode = request.node.stash.get(_mode, UNDISTURBED)
    request.node.stash[_engine] = engine = SimulatedEngine(durable_services, mode=mode, **durable_options)
    yield engine
    request.node.stash[_commits] = engine.commits.commits
    del request.node.stash[_engine]
    engine.end()


@pytest.fixture
def durable_clock(durable_engine: SimulatedEngine) -> VirtualClock:
    """The time of `durable_engine`: `await durable_clock.advance("2 days")`."""
    return durable_engine.clock


@pytest.fixture
def durable_app_engine(
    request: pytest.FixtureRequest, durable_services: Iterable[object], durable_options: Mapping[str, Any]
) -> Generator[AppEngine]:
    """An engine for an app to start in its lifespan, as a `TestClient` has it do; its time is moved by hand."""
    from durable.testing.engines import AppEngine

    request.node.stash[_engine] = engine = AppEngine(durable_services, **durable_options)
    yield engine
    request.node.stash[_commits] = engine.commits.commits
    del request.node.stash[_engine]
    engine.end()


@pytest.fixture
def durable_app_clock(durable_app_engine: AppEngine) -> ClockByHand:
    """The time of `durable_app_engine`: `durable_app_clock.advance("2 days")`."""
    return durable_app_engine.clock


# ---- a test runs ----


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Have an asynchronous test run by its engine, whichever plug-in awaits it."""
    engine: Any = item.stash.get(_engine, None)
    if engine is None or not isinstance(item, pytest.Function):
        return (yield)
    test = item.obj
    if inspect.iscoroutinefunction(test) and hasattr(engine, "run"):
        item.obj = _run_by(engine, test, item)
    try:
        result = yield
    finally:
        item.obj = test
    engine.check()
    return result


def _run_by(engine: SimulatedEngine, test: Callable[..., Awaitable[Any]], item: pytest.Item) -> Any:
    @functools.wraps(test)
    async def run(*args: Any, **options: Any) -> Any:
        async def body() -> Any:
            try:
                return await test(*args, **options)
            except BaseException:
                item.stash[_notes] = engine.findings.standing()
                raise

        return await engine.run(body())

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Below a failure: where each invocation stands; and in which mode, and how that is run again."""
    report = yield
    if report.failed:
        lines = item.stash.get(_notes, [])
        item.stash[_notes] = []
        mode = item.stash.get(_mode, None)
        if mode is not None:
            seed = item.config.getoption("durable_seed")
            lines.append(f"failed in mode {mode.name!r} (seed {seed}); to run it again:")
            lines.append(f"    pytest {_quoted(item.nodeid)} --durable-crash={_quoted(mode.name)}")
        if lines:
            report.sections.append(("durable", "\n".join(lines)))
    return report


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


# ---- a test runs again and again ----


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    """Run a marked test once for each mode, with new fixtures; what is reported is the first one that fails."""
    how = item.config.getoption("durable_crash")
    if how is None or item.get_closest_marker("durable_crash") is None:
        return None
    if "durable_engine" not in getattr(item, "fixturenames", ()):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, nextitem, how):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports(item: pytest.Item, nextitem: pytest.Item | None, how: str) -> list[pytest.TestReport]:
    from durable.testing.modes import UNDISTURBED, mode_named, modes

    todo = [UNDISTURBED] if how in GROUPS else [mode_named(how)]
    passed: list[pytest.TestReport] = []
    while todo:
        mode = item.stash[_mode] = todo.pop(0)
        # what is above the test stays set up meanwhile
        reports = runtestprotocol(item, nextitem=item.parent, log=False)  # type: ignore[arg-type]
        if not all(report.passed for report in reports):
            break
        passed = passed or reports
        if mode is UNDISTURBED:
            seed, most = item.config.getoption("durable_seed"), item.config.getoption("durable_most")
            every = modes(item.stash[_commits], seed=seed, most=most)
            todo = [mode for mode in every if how in ("all", mode.group)]
    else:
        reports = passed
    del item.stash[_mode]
    call = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(nextitem), when="teardown")
    if call.excinfo is not None:
        reports.append(item.ihook.pytest_runtest_makereport(item=item, call=call))
    return reports
