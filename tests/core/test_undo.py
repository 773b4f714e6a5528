"""A turn that the store refused leaves the world as it was, and its commands can be settled again."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from durable.core.commands import (
    AwaitSignal,
    Cancel,
    Command,
    CompleteEntry,
    Kill,
    Pause,
    Recover,
    Resume,
    SendSignal,
    SetState,
    SettlePromise,
    Submit,
    TimerFired,
)
from durable.core.effects import Need
from durable.core.invocation import Flavor, Invocation, Status
from durable.core.journal import EMPTY, Kind
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.core.undo import needs, undo
from tests.core.support import (
    NO,
    ONE,
    THREE_TIMES,
    Core,
    at_once,
    awakeable,
    call,
    ends,
    fail,
    finish,
    id_of,
    opened,
    runs,
    sleep,
    started,
    step,
    submission,
    suspend,
)

Make = Callable[[Core], list[Command]]


def refuse(core: Core, *commands: Command) -> Turn:
    """One turn that the store refuses, taken back."""
    turn = Turn(core.world, commands, core.now)
    live = {seq: one.notified for seq, one in core.world.invocations.items() if one.status is Status.RUNNING}
    while (need := advance(turn)) is not None:
        core.world.admit(need, at_once(core.store.load(need)))
    undo(turn, at_once(core.store.load(needs(turn, live))), live)
    return turn


def running(core: Core) -> dict[int, Any]:
    """What must be in memory, with all that no table has."""
    return {
        seq: msgspec.to_builtins(one)
        for seq, one in sorted(core.world.invocations.items())
        if one.status is Status.RUNNING
    }


def keys(core: Core) -> dict[Any, Any]:
    """The objects in memory that hold something."""
    return {
        key: (list(one.queue), dict(one.state), dict(one.promises))
        for key, one in sorted(core.world.keys.items())
        if one.queue or one.state or one.promises
    }


def one_of_each(core: Core) -> dict[str, Invocation]:
    """Invocations in every situation."""
    plain = core.submit(submission(1))
    for make in (step, runs, awakeable):
        core.settle(make(plain))
    parent = core.submit(submission(2))
    core.settle(call(parent, 3))
    core.settle(opened(parent, Kind.SIGNAL, AwaitSignal(), "s"))
    child = core.invocation(id_of(3))
    holder = core.submit(submission(4, key="k"))
    core.settle(opened(holder, Kind.SET, SetState("O", "k", "n", b"1"), "n"))
    waiting = core.submit(submission(5, key="k"))
    asleep = core.submit(submission(6))
    core.settle(sleep(asleep, core.now + 5000))
    core.settle(suspend(asleep, 1))
    told = core.submit(submission(7))
    for _ in range(2):
        core.settle(awakeable(told))
    core.settle(call(told, 8))
    core.settle(CompleteEntry(told.id, 1, ONE))
    core.settle(CompleteEntry(told.id, 2, ONE), SendSignal(told.id, "kept", ONE))
    cancelled = core.submit(submission(9))
    core.settle(Cancel(cancelled.id))
    flow = core.submit(submission(10, key="w", flavor=Flavor.WORKFLOW))
    return {
        "plain": plain, "parent": parent, "child": child, "holder": holder, "waiting": waiting, "asleep": asleep,
        "told": told, "cancelled": cancelled, "flow": flow,
    }  # fmt: skip


def commands(core: Core, who: dict[str, Invocation]) -> dict[str, list[Command]]:
    plain, parent, child, holder = who["plain"], who["parent"], who["child"], who["holder"]
    told, asleep = who["told"], who["asleep"]
    timer = min(core.tables.timers)
    return {
        "nothing": [],
        "a new one": [Submit(submission(20))],
        "a new one with a key": [Submit(submission(20, key="new"))],
        "another one for a key": [Submit(submission(20, key="k"))],
        "a step": [step(plain)],
        "the end of a step": [ends(plain, 2)],
        "the end of a handler": [finish(plain)],
        "the end of one that is forgotten at once": [
            Submit(submission(21, retention_ms=0)),
            finish(msgspec.structs.replace(plain, seq=core.world.next_seq, attempt=1)),
        ],
        "the end of a holder": [finish(holder)],
        "the end of a child": [finish(child, NO)],
        "a failure": [fail(plain, THREE_TIMES)],
        "a failure with a cancel": [Cancel(who["cancelled"].id), fail(who["cancelled"], THREE_TIMES)],
        "a call": [call(plain, 20)],
        "state": [opened(holder, Kind.SET, SetState("O", "k", "n", b"2"), "n")],
        "all state": [opened(holder, Kind.CLEAR_ALL, SetState("O", "k", None, None))],
        "a promise": [SettlePromise("O", "w", "p", ONE)],
        "an awakeable": [CompleteEntry(plain.id, 3, ONE)],
        "an awakeable that comes early": [CompleteEntry(plain.id, 9, ONE)],
        "a signal": [SendSignal(parent.id, "s", ONE)],
        "a signal that is kept": [SendSignal(plain.id, "x", ONE)],
        "a kept signal is taken": [opened(told, Kind.SIGNAL, AwaitSignal(), "kept")],
        "a timer": [TimerFired(*timer)],
        "a cancel": [Cancel(plain.id)],
        "a cancel of a tree": [Cancel(parent.id)],
        "a second cancel": [Cancel(who["cancelled"].id)],
        "a kill of a tree": [Kill(parent.id)],
        "a pause": [Pause(plain.id)],
        "a pause of one that sleeps, and its resume": [Pause(asleep.id), Resume(asleep.id)],
        "many at once": [
            step(told), finish(child), Cancel(plain.id), Submit(submission(20)), finish(holder), TimerFired(*timer),
        ],
    }  # fmt: skip


WHAT = list(commands(core := Core(), one_of_each(core)))


@pytest.mark.parametrize("what", WHAT)
def test_memory_is_as_it_was_and_settling_it_again_gives_what_it_would_have_given(what: str) -> None:
    core, untouched = Core(), Core()
    asked = commands(core, one_of_each(core))[what]
    commands(untouched, one_of_each(untouched))
    before = running(core), keys(core), core.tables.copy()
    turn = refuse(core, *asked)
    for seq in set(started(turn)) & before[0].keys():
        before[0][seq]["notified"] += 1  # one more than it has seen: it begins again rather than miss something
    assert running(core) == before[0]
    assert keys(core) == before[1]
    assert core.tables == before[2]
    assert not core.world.topics and not core.world.absent and not core.world.journals and not core.world.visitors
    if "forgotten" in what:
        return  # its second command names the number that the first would have taken
    for command in asked:
        core.settle(command)
        untouched.settle(command)
    assert core.tables.ids.keys() == untouched.tables.ids.keys()
    for id in core.tables.ids:
        one, other = core.invocation(id), untouched.invocation(id)
        for field in ("status", "attempt", "open", "outcome", "cancelling", "problem"):
            assert getattr(one, field) == getattr(other, field), field


def test_what_holds_an_invocation_or_an_object_still_holds_the_right_one() -> None:
    core = Core()
    who = one_of_each(core)
    holder, target = who["holder"], core.world.keys["O", "k"]
    refuse(core, opened(holder, Kind.SET, SetState("O", "k", "n", b"2"), "n"), finish(holder))
    assert core.world.invocations[holder.seq] is holder
    assert core.world.keys["O", "k"] is target
    assert target.state == {"n": b"1"}
    assert list(target.queue) == [holder.seq, who["waiting"].seq]


def test_ordinals_that_were_reserved_in_vain_are_reserved_again() -> None:
    core = Core()
    refuse(core, Submit(submission(1, key="k")))
    assert core.tables.ordinals == 16
    one = core.submit(submission(1, key="k"))
    assert one.queued is not None
    assert core.tables.ordinals > one.queued


def test_a_number_that_was_taken_stays_taken() -> None:
    core = Core()
    refuse(core, Submit(submission(1)))
    assert core.submit(submission(1)).seq == 2


def test_one_that_had_news_is_started_again_when_its_suspension_is_settled_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    for _ in range(2):
        core.settle(awakeable(one))
    core.settle(CompleteEntry(one.id, 1, ONE))
    suspension = suspend(one, 2, notified=0)
    assert started(refuse(core, suspension)) == [one.seq]
    assert started(core.settle(suspension)) == [one.seq]


def test_one_that_was_not_recovered_yet_still_can_be() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one))
    core.crash()
    core.world = type(core.world)(core.tables.ordinals, 2)
    need = Need(seqs={one.seq})
    turn = Turn(core.world, [Recover(one.seq)], core.now)
    while (more := advance(turn)) is not None:
        core.world.admit(more, at_once(core.store.load(more)))
    assert started(turn) == [one.seq]
    undo(turn, at_once(core.store.load(needs(turn, {}))), {})
    assert need.seqs <= core.world.invocations.keys()
    assert started(core.settle(Recover(one.seq))) == [one.seq]
    core.settle(finish(core.invocation(one.id), EMPTY))
    assert core.invocation(one.id).status is Status.COMPLETED
