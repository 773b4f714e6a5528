"""What the log says of invocations: a line for each thing that happens to one, at the level of whoever has to act.

ERROR: it goes on only if somebody does something. WARNING: an attempt failed, and there is another one. INFO: it has
ended with an error. DEBUG: the rest of its life. No line has an input, a result, a state value or a header.
"""

import re

from durable import log
from durable.core.effects import Completed, Failed, Then
from durable.core.invocation import Invocation, Problem, Submission
from durable.core.journal import failure_of
from durable.core.reasons import CANCEL_WAITS
from durable.runtime.failures import cause_of

#: Asked before anything else, for each thing that happens to an invocation.
_hears = log.invocation.hears
#: What W3C's `traceparent` says: a trace, and a span in it.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")


def about(submission: Submission, attempt: int | None = None, step: str | None = None) -> log.About:
    """What a line about an invocation is marked with."""
    trace = _TRACEPARENT.fullmatch(submission.headers.get("traceparent", ""))
    return log.About(
        submission.id,
        submission.target,
        submission.key,
        attempt,
        step or None,
        *(trace.groups() if trace is not None else (None, None)),
    )


def accepted(invocation: Invocation) -> None:
    """It is durable."""
    if _hears(log.DEBUG):
        _debug(invocation.submission, None, "accepted" if invocation.due_at is None else "accepted, to start later")


def began(submission: Submission, attempt: int) -> None:
    """Its handler runs."""
    if _hears(log.DEBUG):
        _debug(submission, attempt, "attempt %d begins", attempt)


def over(submission: Submission, attempt: int, how: str) -> None:
    """Its handler runs no more."""
    if _hears(log.DEBUG):
        _debug(submission, attempt, "attempt %d is over: %s", attempt, how)


def paused(submission: Submission) -> None:
    """Nothing happens until somebody resumes it."""
    if _hears(log.DEBUG):
        _debug(submission, None, "paused")


def completed(action: Completed, *, told: bool) -> None:
    """It has ended. `told`: the failure of its last attempt was in the log, and said so."""
    submission, attempt = action.invocation.submission, action.invocation.attempt
    if action.outcome.ok or told:
        if _hears(log.DEBUG):
            _debug(submission, attempt, "completed")
        return
    if not log.invocation.hears(log.INFO):
        return
    failure = failure_of(action.outcome)
    log.invocation.info(
        "%s %s: ended with an error (%d): %s",
        submission.target,
        submission.id,
        failure.code,
        failure.message,
        about=about(submission, attempt),
    )


def _debug(submission: Submission, attempt: int | None, what: str, *arguments: object) -> None:
    log.invocation.debug(
        f"%s %s: {what}", submission.target, submission.id, *arguments, about=about(submission, attempt)
    )


def failed(action: Failed, error: BaseException | None, now_ms: int) -> None:
    """An attempt failed; `error` is what left its handler or step, where this process has seen it."""
    waits = _waits(action)
    if not log.invocation.hears(log.ERROR if waits else log.WARNING):  # of thousands that fail at once, say
        return
    submission, problem = action.invocation.submission, action.problem
    step = problem.name if problem is not None and problem.entry else ""
    say = log.invocation.error if waits else log.invocation.warning
    say(
        "%s %s: attempt %d failed%s: %s; %s",
        submission.target,
        submission.id,
        action.attempt,
        f" in step {step!r}" if step else "",
        problem.message if problem is not None else "",
        _then(action, problem, now_ms),
        about=about(submission, action.attempt, step),
        cause=None if error is None or problem is None else cause_of(error, problem),
    )


def _waits(action: Failed) -> bool:
    """Whether somebody has to act: an operator who has paused it knows."""
    reason = action.problem is not None and action.problem.reason
    return action.then is Then.END or (action.then is Then.PAUSE and bool(reason or action.tries))


def _then(action: Failed, problem: Problem | None, now_ms: int) -> str:
    tries = f"{action.tries} {'try' if action.tries == 1 else 'tries'}"
    match action.then:
        case Then.RETRY:
            return f"retrying in {max(0, (action.retry_at or 0) - now_ms)} ms"
        case Then.GO_ON if action.tries:
            return f"its step is given up after {tries}: the handler gets a TerminalError"
        case Then.GO_ON:
            return "the handler goes on at once: it has been cancelled"
        case Then.END:
            return f'ended by its policy after {tries} (on_max_attempts="kill")'
        case Then.PAUSE if problem is not None and problem.reason:
            waits = f". {CANCEL_WAITS}" if problem.cancel_waits else ""
            return f"paused at once ({problem.reason}){waits}"
        case Then.PAUSE if action.tries:
            return f"paused after {tries}, no more are left: mend the cause, then engine.resume(id)"
        case Then.PAUSE:
            return "paused, as an operator has asked"


def key_reused(submission: Submission, said: str, *, refused: bool = False) -> None:
    """An idempotency key came with another input than the first time."""
    then = "it is refused" if refused else "the answer is the first one's"
    log.invocation.warning("%s; this one is not executed, %s", said, then, about=about(submission))
