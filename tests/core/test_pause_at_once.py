"""A failure that trying again cannot cure pauses at once, whatever the policy says; nothing is lost by it."""

from typing import Any

import msgspec
import pytest

from durable.core.commands import Cancel, Fail, Kill, Pause, Resume
from durable.core.effects import Failed
from durable.core.invocation import Invocation, Status
from durable.core.reasons import ADVICE, CANCEL_WAITS, HELD, NO_TRIES_LEFT, Reason, advice
from durable.core.retry import RetryPolicy
from tests.core.support import (
    NO,
    Core,
    actions,
    awakeable,
    call,
    fail,
    finish,
    runs,
    started,
    step,
    submission,
)

KILLS = RetryPolicy("100ms", 2.0, "1m", 1, "kill")


def hopeless(who: Invocation, reason: str = Reason.JOURNAL_MISMATCH, **more: Any) -> Fail:
    """A failure that only other code can cure."""
    failed = fail(who, KILLS, failure=NO, **more)
    return msgspec.structs.replace(failed, problem=msgspec.structs.replace(failed.problem, reason=reason))


@pytest.mark.parametrize("reason", Reason)
def test_it_is_paused_at_the_first_try_although_the_policy_would_end_it(reason: Reason) -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(hopeless(one, reason))
    one = core.invocation(one.id)
    assert one.status is Status.PAUSED
    assert one.problem is not None
    assert one.problem.reason == reason
    assert [(action.invocation.seq, action.retry_at) for action in actions(turn, Failed)] == [(one.seq, None)]
    assert not core.tables.timers


def test_the_policy_of_a_step_is_not_asked_and_its_step_stays_open() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(hopeless(one, Reason.RESULT_NOT_STORABLE, entry=1, step_policy=KILLS, step_open=True))
    one = core.invocation(one.id)
    assert one.status is Status.PAUSED
    assert set(one.open) == {1}


def test_a_resume_tries_again_and_what_it_does_then_clears_the_failure() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(hopeless(one))
    assert started(core.settle(Resume(one.id))) == [one.seq]
    one = core.invocation(one.id)
    core.settle(step(one))
    assert one.problem is None
    core.settle(finish(one))
    assert core.invocation(one.id).status is Status.COMPLETED


def test_a_cancel_tries_again_once_and_then_it_waits_and_says_so() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(hopeless(one))
    assert started(core.settle(Cancel(one.id))) == [one.seq]
    one = core.invocation(one.id)
    assert started(core.settle(hopeless(one))) == []
    one = core.invocation(one.id)
    assert one.status is Status.PAUSED
    assert one.problem is not None
    assert one.problem.cancel_waits


def test_a_cancel_that_the_handler_has_seen_does_not_wait() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Cancel(one.id))
    core.settle(hopeless(core.invocation(one.id), cancels=1))
    one = core.invocation(one.id)
    assert one.status is Status.PAUSED
    assert one.problem is not None
    assert not one.problem.cancel_waits


def test_a_cancel_that_comes_while_it_fails_is_told_before_it_may_pause() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    failing = hopeless(one, Reason.RESULT_NOT_STORABLE, entry=1, step_open=True)
    core.settle(Cancel(one.id))
    turn = core.settle(failing)
    assert started(turn) == [one.seq]
    assert core.invocation(one.id).cancels == 1


def test_a_cancel_still_waits_for_the_calls_of_one_that_is_paused_at_once() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(call(one, 2))
    child = core.invocation(submission(2).id)
    core.settle(awakeable(child))
    core.settle(hopeless(one))
    assert started(core.settle(Cancel(one.id))) == []
    one = core.invocation(one.id)
    assert one.status is Status.PAUSED
    assert one.cancelling
    assert one.seq in started(core.settle(finish(core.invocation(child.id), NO)))


def test_an_operators_pause_and_a_kill_still_work() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(hopeless(one))
    assert core.invocation(one.id).status is Status.PAUSED
    core.settle(Kill(one.id))
    assert core.invocation(one.id).status is Status.COMPLETED


def test_each_reason_has_advice_and_a_waiting_cancel_is_named() -> None:
    assert set(ADVICE) == set(Reason)
    for reason in Reason:
        told = advice(reason, cancelling=False, held=False)
        assert advice(reason, cancelling=True, held=False) == f"{told} {CANCEL_WAITS}"
    for held, told in ((True, HELD), (False, NO_TRIES_LEFT)):
        assert advice("", cancelling=True, held=held) == told
