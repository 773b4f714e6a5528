"""A command with an idempotency key takes effect once, and is answered as it was the first time."""

import msgspec
import pytest

from durable.core.commands import (
    Cancel,
    Command,
    CompleteEntry,
    Kill,
    Pause,
    Purge,
    Restart,
    Resume,
    SendSignal,
    SettlePromise,
)
from durable.core.effects import Answer, Reply
from durable.core.ids import READABLE
from durable.core.invocation import Flavor, Status, run_id
from durable.core.once import KEPT_MS, OF_CLIENT, Once, Place
from durable.core.record_commands import SetCluster, Subscribe, Unsubscribe
from durable.core.sources import Cluster, Subscription
from tests.core.support import DAY, NO, ONE, Core, actions, awakeable, finish, id_of, replies, submission

K, OTHER = Once("k", b"1"), Once("k", b"2")


def answer(core: Core, command: Command) -> Reply:
    [reply] = actions(core.settle(command), Reply)
    return reply


def test_a_second_signal_of_the_same_key_is_none() -> None:
    core = Core()
    who = core.submit(submission(1))
    for _ in range(3):
        assert answer(core, SendSignal(who.id, "s", ONE, 7, K)).result is Answer.DONE
    assert len(core.tables.signals[who.seq]) == 1
    core.settle(SendSignal(who.id, "s", ONE, 7, Once("l")), SendSignal(who.id, "s", ONE, 8, Once("l")))
    core.settle(SendSignal(who.id, "t", ONE, 7, K), SendSignal(who.id, "s", ONE))
    assert [one.name for one in core.tables.signals[who.seq].values()] == ["s", "s", "t", "s"]


def test_the_same_key_with_something_else_is_told_apart() -> None:
    core = Core()
    who = core.submit(submission(1))
    assert [answer(core, SendSignal(who.id, "s", ONE, 7, one)).differs for one in (K, K, OTHER)] == [
        False,
        False,
        True,
    ]
    assert answer(core, SendSignal(who.id, "s", ONE, 7, OTHER)).found is not None


def test_who_completes_an_awakeable_with_a_key_knows_whether_it_was_this_one() -> None:
    core = Core()
    who = core.submit(submission(1))
    core.settle(awakeable(who), awakeable(who))
    mine, theirs, early = (CompleteEntry(who.id, entry, ONE, 7) for entry in (1, 2, 5))
    for command in (mine, early):
        for _ in range(2):
            assert answer(core, msgspec.structs.replace(command, once=K)).result is Answer.DONE
        assert answer(core, msgspec.structs.replace(command, once=Once("l"))).result is Answer.CONFLICT
        assert answer(core, command).result is Answer.UNCHANGED
    core.settle(theirs)
    assert answer(core, msgspec.structs.replace(theirs, once=K)).result is Answer.CONFLICT
    core.settle(finish(who))
    assert answer(core, msgspec.structs.replace(mine, once=K)).result is Answer.DONE
    assert answer(core, CompleteEntry(who.id, 9, ONE, 7, 0, K)).result is Answer.CONFLICT


def test_who_signals_an_invocation_that_has_ended_is_told_so() -> None:
    core = Core()
    who = core.submit(submission(1))
    core.settle(SendSignal(who.id, "s", ONE, 7, K), finish(who))
    assert answer(core, SendSignal(who.id, "s", ONE, 7, K)).result is Answer.DONE, "it was in time"
    assert answer(core, SendSignal(who.id, "s", ONE, 7, Once("l"))).result is Answer.CONFLICT
    assert answer(core, SendSignal(who.id, "s", ONE, 7)).result is Answer.UNCHANGED


def test_who_settles_a_promise_with_a_key_knows_its_own_success() -> None:
    core = Core()
    settle = SettlePromise("W", "a", "p", ONE, 7)
    for _ in range(2):
        assert answer(core, msgspec.structs.replace(settle, once=K)).result is Answer.DONE
    assert answer(core, settle).result is Answer.CONFLICT
    assert answer(core, SettlePromise("W", "a", "p", NO, 7, Once("l"))).result is Answer.CONFLICT
    assert answer(core, SettlePromise("W", "a", "q", NO, 7, K)).result is Answer.DONE, "a key of another promise"


def test_what_an_earlier_run_was_told_says_nothing_of_the_next_one() -> None:
    core = Core()
    run = msgspec.structs.replace(
        submission(1, key="a", flavor=Flavor.WORKFLOW, retention_ms=1000),
        service="W",
        handler="run",
        id=run_id("W", "a", READABLE),
    )
    core.submit(run)
    assert answer(core, SettlePromise("W", "a", "p", ONE, 7, K)).result is Answer.DONE
    core.settle(finish(core.invocation(run.id)))
    core.now += 1000
    again = core.settle(SettlePromise("W", "a", "p", ONE, 7, K), SettlePromise("W", "a", "p", ONE, 8, K))
    assert (replies(again), len(again.writes.promises)) == ([(7, "done"), (8, "done")], 1)


@pytest.mark.parametrize("crashes", [False, True])
def test_each_way_to_steer_takes_effect_once(crashes: bool) -> None:
    core = Core()

    def twice(command: Command) -> str:
        first = answer(core, command)
        if crashes:
            core.crash()
        written = core.settle(command)
        [again] = actions(written, Reply)
        assert (again.result, again.id, written.writes.rows) == (first.result, first.id, 0)
        return str(first.result)

    who = core.submit(submission(1))
    assert twice(Pause(who.id, 7, once=K)) == Status.RUNNING
    assert twice(Resume(who.id, 7, once=K)) == (Status.PAUSED if crashes else Status.RUNNING)
    assert twice(Cancel(who.id, 7, once=K)) == Answer.ACCEPTED
    assert core.invocation(who.id).cancels == 1
    assert twice(Cancel(who.id, 7, once=Once("l"))) == Answer.ACCEPTED
    assert core.invocation(who.id).cancels == 2
    assert twice(Kill(who.id, 7, once=K)) == Answer.DONE
    assert twice(Restart(who.id, id_of(2), 0, 7, once=K)) == Answer.ACCEPTED
    assert twice(Purge(who.id, True, 7, once=K)) == Answer.DONE
    assert twice(Purge(who.id, False, 7, once=K)) == Answer.DONE
    assert not core.exists(who.id)
    assert answer(core, Purge(who.id, False, 7)).result is Answer.NOT_FOUND
    assert set(core.tables.answered) == {""}, "all else is gone with it"


def test_what_was_refused_may_be_asked_again() -> None:
    core = Core()
    who = core.submit(submission(1))
    assert answer(core, Restart(who.id, id_of(2), 0, 7, once=K)).result is Status.RUNNING
    assert answer(core, Purge(who.id, False, 7, once=K)).result is Status.RUNNING
    core.settle(finish(who))
    assert answer(core, Cancel(who.id, 7, once=K)).result is Status.COMPLETED
    assert answer(core, Pause(who.id, 7, once=K)).result is Status.COMPLETED
    assert answer(core, Resume(who.id, 7, once=K)).result is Status.COMPLETED
    assert not core.tables.answered
    assert answer(core, Restart(who.id, id_of(2), 0, 7, once=K)).id == id_of(2)
    assert answer(core, Restart(who.id, id_of(3), 0, 7, once=K)).id == id_of(2)
    assert answer(core, Restart(who.id, id_of(3), 0, 7)).id == id_of(3)


def test_a_killed_one_of_which_nothing_is_kept_was_killed_by_this_one_for_a_day() -> None:
    core = Core()
    who = core.submit(submission(1, retention_ms=0))
    for _ in range(2):
        assert answer(core, Kill(who.id, 7, once=K)).result is Answer.DONE
    assert answer(core, Kill(who.id, 7, once=Once("l"))).result is Answer.NOT_FOUND
    core.now += KEPT_MS
    assert answer(core, Kill(who.id, 7, once=K)).result is Answer.NOT_FOUND
    other = core.submit(submission(2, retention_ms=0))
    core.settle(Kill(other.id, 7, once=K))
    assert list(core.tables.answered[""]) == [Place("", f"kill/{other.id}", "k")], "the older one is swept"


def test_subscriptions_and_clusters_are_made_and_deleted_once() -> None:
    core = Core()

    def subscribe(number: int, once: Once | None) -> Reply:
        one = Subscription(f"sub{number}", "kafka://c/t", "service://S/h", {}, "c", "t", "g", "S", "h", "service", 1)
        return answer(core, Subscribe(one, 7, once))

    assert [subscribe(1, K).id, subscribe(2, K).id, subscribe(3, None).id] == ["sub1", "sub1", "sub3"]
    assert set(core.tables.subscriptions) == {"sub1", "sub3"}
    for _ in range(2):
        assert answer(core, Unsubscribe("sub1", 7, K)).result is Answer.DONE
    assert answer(core, Unsubscribe("sub1", 7)).result is Answer.NOT_FOUND
    cluster = Cluster("c", {}, 1)
    for _ in range(2):
        assert answer(core, SetCluster("c", cluster, 7, True, K)).result is Answer.DONE
    assert answer(core, SetCluster("c", cluster, 7, True, Once("l"))).result is Answer.CONFLICT
    for _ in range(2):
        assert answer(core, SetCluster("c", None, 7, False, K)).result is Answer.DONE
    assert answer(core, SetCluster("c", None, 7)).result is Answer.NOT_FOUND


def test_a_purge_takes_what_was_asked_with_it() -> None:
    core = Core()
    who, other = core.submit(submission(1)), core.submit(submission(2, retention_ms=DAY))
    core.settle(SendSignal(who.id, "s", ONE, 7, K), SendSignal(other.id, "s", ONE, 8, K))
    core.settle(finish(core.invocation(who.id)))
    core.settle(Purge(who.id), SendSignal(other.id, "s", ONE, 8, Once("l")))
    assert set(core.tables.answered) == {str(other.seq)}


def test_what_a_client_asks_with_a_key_of_its_own_is_known_for_a_day() -> None:
    core = Core()
    who = core.submit(submission(1))
    for number in range(3):
        for _ in range(2):
            core.settle(SendSignal(who.id, "s", ONE, 7, Once(f"{OF_CLIENT}{number}")))
        core.now += KEPT_MS
    assert len(core.tables.signals[who.seq]) == 3
    assert [place.key for place in core.tables.answered[""]] == [f"{OF_CLIENT}2"], (
        "of endless signals, a day's are kept"
    )
