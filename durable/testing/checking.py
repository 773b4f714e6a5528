"""Run a scenario in every mode, and compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, TypeVar

import anyio.to_thread

from durable import log
from durable.testing.modes import FIRST, UNDISTURBED, Mode, mode_named, modes
from durable.testing.simulation import Scenario, Services, simulate_strictly
from durable.testing.virtual import GIVEN_UP, outside_a_loop

T = TypeVar("T")


def check(
    services: Services,
    scenario: Scenario[T],
    *,
    most: int = 60,
    seed: int = 0,
    only: str | None = None,
    **options: Any,
) -> T:
    """Run a scenario in every mode. Each must give the result of the undisturbed run, which is returned.

    The modes are: suspended at every await; one handler in memory at a time; a crash before, a crash after and a
    clean restart at every commit (of more than `most` commits, that many are drawn by `seed`); commits that are
    refused; and mixtures of these. `only` names a single mode to run after the undisturbed run. `options` are options
    of `Engine`.

    In every mode, this raises

    - what the scenario raises;
    - `AssertionError` if the result differs;
    - `NotDeterministic` if a handler does something other than what its journal records, or passes other data to a
      step that is recorded;
    - `StepRanAgain` if a step runs more often than promised;
    - `ForgottenAwait` if a handler ends without awaiting something it began;
    - `SimulationStuck` if the scenario can never end.

    The error has a note with the line that runs its mode alone. What the engine logs is shown for the undisturbed run
    and for the mode that fails, because the other modes log the crashes that are made here.
    """
    outside_a_loop("check() runs event loops of its own, and one is running here: use `await acheck(...)`")
    todo = None if only is None else [mode_named(only)]
    cold = FIRST[0] if todo is None or FIRST[0] in todo else None
    before: list[T] = []  # of the first run of all: what code keeps in memory is not there yet
    failed: BaseException | None = None
    if cold is not None:
        try:
            with _noted(cold), _quiet():
                before.append(simulate_strictly(services, scenario, cold, options)[0])
        except Exception as error:  # if the undisturbed run fails, too, that is what is wrong
            if (given_up := GIVEN_UP.get()) is not None and given_up.is_set():
                raise
            failed = error
    with _noted(UNDISTURBED):
        expected, undisturbed = simulate_strictly(services, scenario, UNDISTURBED, options)
    if failed is not None:
        raise failed
    for mode in todo or modes(undisturbed.log.commits, seed=seed, most=most):
        with _noted(mode), _quiet():
            result = before[0] if mode is cold else simulate_strictly(services, scenario, mode, options)[0]
            assert result == expected, f"{result!r} instead of {expected!r}"
    return expected


@contextmanager
def _noted(mode: Mode) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"in mode {mode.name!r}; this runs it alone: check(services, scenario, only={mode.name!r})")
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """What the engine logs is shown only if this fails."""
    lines: log.Kept = []
    try:
        with log.kept() as lines:
            yield
    except BaseException:
        log.say(lines)
        raise


async def acheck(
    services: Services,
    scenario: Scenario[T],
    *,
    most: int = 60,
    seed: int = 0,
    only: str | None = None,
    **options: Any,
) -> T:
    """`check` for asynchronous tests: it runs in a thread, where it can have event loops of its own.

    So the scenario cannot use what belongs to the event loop of the test. If this is cancelled, the check ends soon.
    """
    given_up = Event()

    def in_thread() -> T:
        GIVEN_UP.set(given_up)
        return check(services, scenario, most=most, seed=seed, only=only, **options)

    try:
        return await anyio.to_thread.run_sync(in_thread, abandon_on_cancel=True)
    finally:
        given_up.set()
