"""The story of examples/trip_saga as a reader runs it, random kills, and that its checks see a broken promise."""

import asyncio
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from durable import Engine, TerminalError
from durable.testing import MemoryStore, run
from examples.trip_saga.checks import check, check_the_kill
from examples.trip_saga.driver import Evidence, Killed, random_plan
from examples.trip_saga.outside import Ask, Line, Result, World
from examples.trip_saga.services import Trips, travel_agency
from examples.trip_saga.worker import TRIP, Report, report

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.process
def test_a_trip_that_was_called_off_is_undone_leaf_first_by_the_process_after_the_killed_one(tmp_path: Path) -> None:
    told = trip_saga()
    first, second = told.split("on the same file\n")
    assert things(first) == ["taxi", "seat", "room", "car", "policy", "policy", "policy", "car"]
    assert first.count("booked by") == 5
    assert first.splitlines()[-2].endswith("gets SIGKILL, right after that")
    undone = re.findall(r"s +(\w+) +cancelled", second)
    assert undone == ["room", "seat", "taxi"]
    assert "the trip has ended: cancelled, 409\n" in second
    assert second.count("  ok ") == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.parametrize("seed", [100, 200])
def test_random_kills_break_no_promise(seed: int) -> None:
    told = trip_saga("--rounds", "2", "--seed", str(seed))
    assert told.startswith(f"seed {seed}\n")
    assert told.count(": ok\n") == 2
    assert re.search(r"^2 trips undone, through \d kills: ", told, re.MULTILINE)


def test_a_seed_makes_the_same_plan_and_plans_differ() -> None:
    plans = [random_plan(seed) for seed in range(200)]
    assert plans == [random_plan(seed) for seed in range(200)]
    assert len({repr(plan) for plan in plans}) == 200
    assert {plan.call_off.after for plan in plans} == {1, 2, 3, 4, 5, 6}
    assert {len(plan.kills) for plan in plans} == {1, 2, 3}


def test_whenever_it_is_called_off_all_that_was_booked_is_undone(tmp_path: Path) -> None:
    """In virtual time: around every request and every answer, and a few turns of the event loop later."""
    failed = []
    for quarters in range(1, 4 * 8):
        for turns in range(8):
            world = World(tmp_path / f"{quarters} {turns}", answer_s=1.0)
            found = run(partial(called_off, world, quarters / 4, turns))
            failed += [f"at {quarters / 4} s, {turns} turns: {one}" for one in check(found) if one.broken]
    assert not failed, "\n".join(failed)


async def called_off(world: World, at: float, turns: int) -> Evidence:
    """Book the trip, call it off at that moment, and wait for what becomes of it."""
    async with Engine(store=MemoryStore(), services=travel_agency(world)) as engine:
        booking = await engine.send(Trips.book, TRIP)
        await asyncio.sleep(at)
        for _ in range(turns):
            await asyncio.sleep(0)
        await engine.call(Trips.call_off, booking.id)
        with pytest.raises(TerminalError) as error:
            await booking.result()
        ended = await report(engine, error.value.code, error.value.message)
        await asyncio.sleep(60)
    return Evidence(world.lines(), [], ended)


# ---- the checks ----

Request = tuple[int, Ask, str, Result]
BOOKED: list[Request] = [(1, "book", "taxi", "done"), (1, "book", "seat", "done")]
UNDONE: list[Request] = [(1, "cancel", "seat", "done"), (2, "cancel", "taxi", "done")]
AGAIN: Request = (2, "cancel", "seat", "done before")
CANCELLED = Report(409, "cancelled", seats_free=2, rooms_free=5, unfinished=[])


def test_a_trip_undone_as_it_should_be_breaks_no_promise() -> None:
    assert broken(BOOKED + UNDONE) == []


def test_the_step_that_was_running_at_the_kill_may_run_again() -> None:
    assert broken([*BOOKED, UNDONE[0], AGAIN, UNDONE[1]]) == []


def test_any_other_step_may_not() -> None:
    promise = "no step ran again but the one that was running at a kill"
    assert broken([*BOOKED, *UNDONE, (2, "cancel", "taxi", "done before")]) == [promise]  # by the process that did it
    assert broken([*BOOKED, (2, "book", "taxi", "done before"), *UNDONE]) == [promise]  # another was last
    assert broken([*BOOKED, (1, "book", "seat", "done before"), *UNDONE]) == [promise]  # without any kill


def test_a_booking_made_twice_under_another_reference_is_seen() -> None:
    twice: list[Request] = [(1, "book", "seat-2", "done"), (1, "cancel", "seat-2", "done")]
    assert broken([*BOOKED, *twice, *UNDONE]) == ["nothing was booked twice"]


def test_a_booking_that_was_left_is_seen() -> None:
    assert "every booking was cancelled, once" in broken([*BOOKED, UNDONE[0]])


def test_a_root_that_was_undone_before_its_leaf_is_seen() -> None:
    assert broken([*BOOKED, *UNDONE[::-1]]) == ["leaf first: what was booked last was cancelled first"]


@pytest.mark.parametrize("ended", [Report(200, "booked", 2, 5, []), Report(409, "killed", 2, 5, [])])
def test_another_outcome_is_seen(ended: Report) -> None:
    assert broken(BOOKED + UNDONE, ended) == ["the trip has ended as cancelled, 409"]


@pytest.mark.parametrize("ended", [Report(409, "cancelled", 1, 5, []), Report(409, "cancelled", 2, 4, [])])
def test_a_seat_or_a_room_that_stays_taken_is_seen(ended: Report) -> None:
    assert broken(BOOKED + UNDONE, ended) == ["all seats and rooms are free again"]


def test_a_child_that_goes_on_without_its_parent_is_seen() -> None:
    orphan = Report(409, "cancelled", 2, 5, ["Insurance/insure"])
    assert broken(BOOKED + UNDONE, orphan) == ["nothing that the trip has called goes on without it"]


@pytest.mark.parametrize("asked", [0, 2, 4])
def test_a_kill_before_or_after_the_undoing_does_not_count(asked: int) -> None:
    assert check_the_kill(evidence(BOOKED + UNDONE, asked=3)).broken == []
    assert check_the_kill(evidence(BOOKED + UNDONE, asked=asked)).broken != []


def broken(requests: list[Request], ended: Report = CANCELLED) -> list[str]:
    return [one.promise for one in check(evidence(requests, ended)) if one.broken]


def evidence(requests: list[Request], ended: Report = CANCELLED, asked: int = 3) -> Evidence:
    """Each thing has a company of its own: a seat has the seat company, and so has seat-2."""
    lines = [
        Line(float(at), pid, thing.partition("-")[0], ask, f"trip-7/{thing}", result)
        for at, (pid, ask, thing, result) in enumerate(requests)
    ]
    return Evidence(lines, [Killed(1, "unwinding", asked)], ended)


# ---- running it ----


def trip_saga(*arguments: str) -> str:
    """What it prints, kept short of a warning."""
    command = [sys.executable, "-m", "examples.trip_saga", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout


def things(told: str) -> list[str]:
    """What the companies were asked about, in order."""
    return re.findall(r"^ +[\d.]+ s +(\w+)", told, re.MULTILINE)
