"""Ends an attempt: with an outcome, with a failure that is retried, or by suspending it while it waits."""

import msgspec

from durable.core.commands import Cool, Fail, Finish, Suspend
from durable.core.effects import Interrupt, Then
from durable.core.invocation import Invocation, Status
from durable.core.journal import COMMAND, COMPLETION, Kind, Outcome, Row
from durable.core.lifecycle.after import Again, BackOff, Stop, Wait, after
from durable.core.lifecycle.record import attempt_of, forget_tries
from durable.core.retry import RetryPolicy
from durable.core.turn import Turn


def finish(turn: Turn, command: Finish) -> None:
    """The handler returned, or ended with a terminal failure."""
    invocation = attempt_of(turn, command.seq, command.attempt)
    if invocation is not None:
        invocation.problem = None
        turn.complete(invocation, command.outcome)


def fail(turn: Turn, command: Fail) -> None:
    """Back off, give the step up, pause, or give the invocation up: as the policy says.

    If a retry cannot help (`Problem.reason`), no policy is asked: the invocation is paused at once, and never ended,
    because other code can still save its work.
    """
    invocation = attempt_of(turn, command.seq, command.attempt)
    if invocation is None:
        return
    unseen = command.cancel_due or command.cancels < invocation.cancels
    problem = command.problem
    invocation.problem = msgspec.structs.replace(problem, at=turn.now, cancel_waits=bool(problem.reason) and unseen)
    if invocation.cancelled and unseen:  # the handler has a cancel to see: nothing to wait for
        turn.failed(invocation, Then.GO_ON)
        after(turn, invocation, Again(cancelled=True))
    elif problem.reason:
        invocation.failures += 1
        stop(turn, invocation, invocation.failures)
    elif command.step_policy is not None:
        entry = problem.entry
        failures = invocation.step_failures.get(entry, 0) + 1
        if command.step_policy.exhausted(
            failures, lasting_ms(turn, invocation, command, command.step_policy, failures)
        ):
            if command.step_pauses:
                stop(turn, invocation, failures)
            else:
                give_step_up(turn, invocation, command, failures)
        else:
            invocation.step_failures = {**invocation.step_failures, entry: failures}
            back_off(turn, invocation, command, command.step_policy, failures)
    else:
        invocation.failures += 1
        lasting = lasting_ms(turn, invocation, command, command.policy, invocation.failures)
        if not command.policy.exhausted(invocation.failures, lasting):
            back_off(turn, invocation, command, command.policy, invocation.failures)
        else:
            give_up(turn, invocation, command.policy, command.failure)


def lasting_ms(turn: Turn, invocation: Invocation, command: Fail, policy: RetryPolicy, failures: int) -> int:
    """For how long there will have been retries when the next one begins; 0 if the policy does not ask."""
    if not policy.timed:
        return 0
    key = -command.problem.entry if command.step_policy is not None else 0
    since = invocation.step_failures.get(key)
    if since is None:
        since = turn.now
        invocation.step_failures = {**invocation.step_failures, key: since}
    wait_ms = command.retry_after_ms
    return turn.now - since + (policy.delay_ms(failures) if wait_ms is None else wait_ms)


def give_up(turn: Turn, invocation: Invocation, policy: RetryPolicy, failure: Outcome | None) -> None:
    """No attempt is left: pause or end it."""
    if policy.on_max_attempts == "kill" and failure is not None:
        turn.failed(invocation, Then.END, tries=invocation.failures)
        turn.complete(invocation, failure)
    else:
        stop(turn, invocation, invocation.failures)


def stop(turn: Turn, invocation: Invocation, tries: int) -> None:
    """Pause it after so many attempts, until somebody resumes it."""
    turn.failed(invocation, Then.PAUSE, tries=tries)
    after(turn, invocation, Stop())


def back_off(turn: Turn, invocation: Invocation, command: Fail, policy: RetryPolicy, failures: int) -> None:
    """Retry later, at a time that is stored; or when it is resumed, if it was about to be paused."""
    delay_ms = command.retry_after_ms
    if delay_ms is None:
        delay_ms = policy.delay_ms(failures)
    retry_at = turn.now + delay_ms
    if invocation.pausing:
        turn.failed(invocation, Then.PAUSE)
    else:
        turn.failed(invocation, Then.RETRY, retry_at)
    after(turn, invocation, BackOff(retry_at))


def give_step_up(turn: Turn, invocation: Invocation, command: Fail, failures: int) -> None:
    """The step's own policy is exhausted: its failure becomes the entry's outcome, and the handler sees it."""
    entry, outcome = command.problem.entry, command.failure
    assert outcome is not None
    part = COMPLETION if command.step_open else COMMAND
    turn.writes.journal.append(step_row(turn, invocation, command, part, outcome))
    invocation.open.pop(entry, None)
    invocation.last_entry = max(invocation.last_entry, entry)
    forget_tries(invocation, entry)
    turn.failed(invocation, Then.GO_ON, tries=failures)
    after(turn, invocation, Again())


def step_row(turn: Turn, invocation: Invocation, command: Fail, part: int, outcome: Outcome) -> Row:
    """The row that ends a step whose policy gave up."""
    return Row(
        invocation=invocation.seq,
        entry=command.problem.entry,
        part=part,
        kind=Kind.RUN,
        name=command.problem.name,
        detail=None,
        seen=command.step_seen,
        ordinal=turn.ordinal(),
        ok=outcome.ok,
        value=outcome.value,
        at=turn.now,
    )


def suspend(turn: Turn, command: Suspend) -> None:
    """The attempt has let its waiting handler go. If there is news that it has not seen, start it again."""
    invocation = attempt_of(turn, command.seq, command.attempt)
    if invocation is None:
        return
    seen = invocation.notified == command.notified
    told = seen or not invocation.cancelled  # of each cancel
    if command.weight and told and not invocation.cancelling and not invocation.pausing:
        turn.keep_warm(invocation, command.weight)
    else:
        turn.actions.append(Interrupt(invocation.seq))
    if seen:
        after(turn, invocation, Wait(command.waiting))
    else:  # a cancel may be part of it
        after(turn, invocation, Again(cancelled=invocation.cancelled))


def cool(turn: Turn, command: Cool) -> None:
    """The handler that was kept in memory is gone."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is not None and invocation.attempt == command.attempt and invocation.status is not Status.RUNNING:
        turn.cool(invocation)
