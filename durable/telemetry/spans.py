"""The spans of an invocation: its request, each attempt, each step once, its end. One trace, even across crashes.

    ingress Shop/checkout                        a request over HTTP, until what it asks for is durable
    └─ invocation-start Shop/checkout            from being asked for until it is durable: what the others hang on
       ├─ invocation-attempt Shop/checkout       each attempt
       │  └─ run charge                          each execution of a step; what it calls nests below it
       ├─ attempt-lost Shop/checkout             after a crash: the attempt of before, whose own span went with it
       ├─ invocation-start Stock/{key}/reserve   a call that it made, with its own attempts
       └─ invocation-end Shop/checkout           the moment at which its outcome was durable

Spans show what is durable. The first span is exported once the invocation is durable; its id is stored with the
invocation, so that the others can have it as their parent. The span of a step that succeeded is exported once its
result is durable, or with `durable.step.recorded=false` if it never became so.
"""

import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context, attach, detach, get_current, get_value, set_value
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)

from durable.core.effects import Failed
from durable.core.invocation import Invocation, Submission
from durable.core.journal import Kind, Outcome, failure_of
from durable.core.sources import Subscription
from durable.release import package_version
from durable.runtime.failures import failure_of_exception, problem_of
from durable.runtime.observer import Asking, Observer
from durable.telemetry.carried import EMPTY, PARENT, above, below, carried, carry, stored
from durable.telemetry.ending import Endings
from durable.telemetry.lazy import LazySpan

#: How many that were asked for may be waited for whose answer never comes: they were refused, say.
ASKED_MAX = 10_000
#: How many names of steps are part of a span's name: what makes names from data gets no more of them.
STEP_NAMES_MAX = 1000
_EVENTS = {
    "suspended": "durable.invocation.lifecycle.suspended",
    "unloaded": "durable.invocation.lifecycle.yielded",
}
#: How much of an error's message is told.
MESSAGE_MAX = 1000


class _Attempt:
    """An attempt that runs, or one whose failure is not durable yet."""

    __slots__ = ("context", "ended_ns", "followed", "ids", "invocation", "number", "span", "steps")

    def __init__(self, number: int, span: Span, invocation: SpanContext, ids: dict[str, Any]) -> None:
        #: What its handler begins in.
        self.context = set_span_in_context(span, EMPTY)
        self.followed = _is_followed(span)
        self.number = number
        self.span = span
        #: The span that all spans of its invocation hang on.
        self.invocation = invocation
        #: Attributes of all its steps.
        self.ids = ids
        #: Those that go on, or that have ended and are not durable yet, by entry.
        self.steps: dict[int, LazySpan] = {}
        self.ended_ns = 0


class Traces(Observer):
    """An observer that makes spans of what an engine does: `Engine(..., observer=Traces(provider))`.

    You only need it for a provider of your own: if the process has one installed (`trace.set_tracer_provider`), an
    engine makes its `Traces` by itself.
    """

    def __init__(self, provider: TracerProvider) -> None:
        tracer: Tracer = provider.get_tracer("durable", package_version())
        self._start = tracer.start_span
        self._endings = Endings()
        self._end = self._endings.add
        #: Spans that end when what was asked for is durable, by the name under which that carries the last one.
        self._asked: dict[str, tuple[Span, ...]] = {}
        #: Under which an OpenTelemetry context has the span of the attempt that it is in.
        self._in_attempt = f"durable-attempt-{id(self)}"
        self._attempts: dict[str, _Attempt] = {}
        #: Those that have failed, until what follows is durable.
        self._failing: dict[str, _Attempt] = {}
        #: Attempts that are over and have such steps, by invocation and number.
        self._over: dict[str, dict[int, _Attempt]] = {}
        self._requests: dict[int, tuple[Span, Any]] = {}
        #: Spans of requests that are not told of yet.
        self._ingress: set[Span] = set()
        #: Names of spans, by those of their steps.
        self._step_names: dict[str, str] = {}

    def flush(self, patience_s: float = 5.0) -> bool:
        """Hand all spans that have ended to the SDK; False if that takes too long."""
        return self._endings.flush(patience_s)

    # ---- the engine ----

    def engine_stopped(self) -> None:
        """What is not durable by now gets no span, except steps, which have been executed."""
        for id in [*self._over, *self._failing, *self._attempts]:
            self._left_over(id)
        for attempt in self._attempts.values():
            self._attempt_over(attempt, "ended")
        self._asked.clear()
        self._ingress.clear()
        self._attempts.clear()
        self._over.clear()
        self._endings.flush()

    # ---- requests ----

    def request_started(self, request: Asking) -> None:
        """A span until the request is durable or refused. A crash must not lose it: it is the parent of others."""
        attributes: dict[str, Any] = {"rpc.service": request.service, "rpc.method": request.handler}
        if request.peer is not None:
            attributes["client.socket.address"], attributes["client.socket.port"] = request.peer
        span = self._start(
            f"ingress {_low(request.service, request.key, request.handler)}",
            self._parent(request.headers),
            SpanKind.SERVER,
            attributes,
        )
        if len(self._requests) < ASKED_MAX:
            self._requests[id(request)] = span, attach(set_span_in_context(span))
            self._ingress.add(span)

    def request_ended(self, request: Asking, status: int) -> None:
        """Note the status of the answer if the request was not accepted."""
        found = self._requests.pop(id(request), None)
        if found is None:
            return
        span, token = found
        if get_current_span() is span:
            detach(token)
        if span not in self._ingress:
            return
        self._ingress.remove(span)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        self._end(span, time.time_ns())

    # ---- invocations ----

    def invocation_asked(self, submission: Submission) -> None:
        """A call joins its caller's trace, a send begins one that is linked to it, a request goes on with its own."""
        caller, now = submission.caller, time.time_ns()
        if caller is not None:
            attempt = self._attempts.get(caller.id)
            above = attempt.invocation if attempt is not None else get_current_span().get_span_context()
            if caller.waits:
                self._begin(submission, below(above), now)
            else:
                self._begin(submission, EMPTY, now, links=_links(above))
        elif submission.restarted_from is not None:
            attributes = _common(submission)
            original = "invocation.restart_as_new.original_invocation_id"
            attributes[f"durable.{original}"] = attributes[f"restate.{original}"] = submission.restarted_from
            span = self._start(
                f"restart-as-new {low(submission)}",
                self._parent({}),
                SpanKind.INTERNAL,
                attributes,
                _links(carried(submission.headers)),
                now,
            )
            self._begin(submission, set_span_in_context(span, EMPTY), now, span)
        else:
            here = get_current_span()
            origin = (here,) if here in self._ingress else ()
            self._begin(submission, self._parent(submission.headers), now, *origin)

    def record_offered(self, submission: Submission, subscription: Subscription) -> None:
        """The trace of the record's sender goes on."""
        headers, now = submission.headers, time.time_ns()
        attributes = _common(submission)
        attributes |= {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": subscription.group,
            "messaging.kafka.offset": int(headers["kafka.offset"]),
            "messaging.source.name": subscription.topic,
            "messaging.source.partition.id": headers["kafka.partition"],
            "durable.subscription.id": subscription.id,
        }
        parent = carried(headers)
        span = self._start(
            f"ingress_kafka {low(submission)}",
            EMPTY if parent is None else below(parent),
            SpanKind.CONSUMER,
            attributes,
            None,
            now,
        )
        self._begin(submission, set_span_in_context(span, EMPTY), now, span)

    def _begin(
        self, submission: Submission, parent: Context, now: int, *origin: Span, links: Sequence[Link] = ()
    ) -> None:
        """The span that others hang on: its name is stored with the invocation, before that is."""
        name = f"invocation-start {low(submission)}"
        span = self._start(name, parent, SpanKind.INTERNAL, _common(submission), links, now)
        context = span.get_span_context()
        if not context.is_valid:
            return
        carry(context, submission.headers)
        if span.is_recording():
            if len(self._asked) >= ASKED_MAX:
                del self._asked[next(iter(self._asked))]
            self._asked[submission.headers[PARENT]] = (*origin, span)

    def invocation_accepted(self, submission: Submission, created_at: int) -> None:
        """Now its spans can be exported."""
        now = time.time_ns()
        for span in self._asked.pop(submission.headers.get(PARENT, ""), ()):
            self._ingress.discard(span)
            self._end(span, now)

    def invocation_dismissed(self, submission: Submission) -> None:
        """Drop its span: the invocation that already exists has its own."""
        self._asked.pop(submission.headers.get(PARENT, ""), None)

    def invocation_ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """A span for the moment at which its outcome became durable."""
        submission, now = invocation.submission, time.time_ns()
        self._left_over(submission.id)
        attributes = _common(submission)
        result = "success" if outcome.ok else "failure"
        attributes["durable.invocation.result"] = attributes["restate.invocation.result"] = result
        if not outcome.ok:
            failure = failure_of(outcome)
            code = "invocation.error.code"
            attributes[f"durable.{code}"] = attributes[f"restate.{code}"] = failure.code
            attributes["error.message"] = failure.message[:MESSAGE_MAX]
        name = f"invocation-end {low(submission)}"
        span = LazySpan(self._start_late, name, below(stored(submission)), attributes, now)
        if not outcome.ok:
            span.span.set_status(Status(StatusCode.ERROR, failure.kind))
        self._end(span, now)

    def _parent(self, headers: Any) -> Context:
        span = above(headers)
        return EMPTY if span is None else below(span)

    # ---- attempts ----

    def attempt_started(self, submission: Submission, attempt: int) -> None:
        """Make the span under which the handler's own spans nest."""
        self._left_over(submission.id)
        invocation = stored(submission)
        ids = _ids(submission)
        attributes = _common(submission, ids)
        attributes["rpc.system"] = "durable"
        attributes["durable.attempt.number"] = attempt
        span = self._start(f"invocation-attempt {low(submission)}", below(invocation), SpanKind.INTERNAL, attributes)
        started = self._attempts[submission.id] = _Attempt(attempt, span, invocation, ids)
        before = get_value(self._in_attempt)
        if before is None or get_current_span() is before:  # and not within a span of the handler's own
            started.context = set_value(self._in_attempt, span, started.context)
            attach(started.context)

    def attempt_ended(self, submission: Submission, attempt: int, how: str, error: BaseException | None) -> None:
        """End its span; if it has failed, only once it is known what follows."""
        ended = self._attempts.pop(submission.id, None)
        if ended is None or ended.number != attempt:
            return
        if ended.steps:
            self._over.setdefault(submission.id, {})[attempt] = ended
        if how == "failed":
            ended.ended_ns = time.time_ns()
            ended.span.set_attribute("durable.attempt.outcome", how)
            if error is not None:
                _tell_of(ended.span, error, "transient failure: ")
            self._failing[submission.id] = ended
        else:
            self._attempt_over(ended, how)

    def _attempt_over(self, attempt: _Attempt, how: str) -> None:
        span = attempt.span
        span.set_attribute("durable.attempt.outcome", how)
        if how == "finished":
            span.set_status(Status(StatusCode.OK))
        elif how in _EVENTS:
            span.add_event(_EVENTS[how])
        self._end(span, time.time_ns())

    def attempt_lost(self, submission: Submission, attempt: int) -> None:
        """A span for a moment at the next start: the attempt's own, the parent of its steps', was lost with it."""
        now = time.time_ns()
        attributes = _common(submission) | {"durable.attempt.number": attempt, "durable.attempt.outcome": "lost"}
        name = f"attempt-lost {low(submission)}"
        span = LazySpan(self._start_late, name, below(stored(submission)), attributes, now)
        span.span.set_status(Status(StatusCode.ERROR, "the process ended without a clean close"))
        self._end(span, now)

    def attempt_failed(self, failed: Failed) -> None:
        """End the span of the attempt with what follows: a retry, a pause, or the end."""
        attempt = self._failing.pop(failed.invocation.id, None)
        if attempt is None or attempt.number != failed.attempt:
            return
        attempt.span.set_attribute("durable.failure.then", failed.then.value)
        problem = failed.problem
        if problem is not None and problem.reason:
            attempt.span.set_attribute("durable.failure.reason", problem.reason)
        if failed.retry_at is not None and problem is not None:
            attempt.span.set_attribute("durable.failure.retry_delay_ms", max(0, failed.retry_at - problem.at))
        self._end(attempt.span, attempt.ended_ns)

    def entry_made(self, submission: Submission, attempt: int, entry: int, kind: Kind, name: str) -> None:
        """Add an event to the span of the attempt. (Steps have spans instead.)"""
        running = self._attempts.get(submission.id)
        if running is not None and running.span.is_recording():
            command: dict[str, Any] = {
                "durable.journal.command.index": entry,
                "durable.journal.command.type": kind.value,
            }
            if name:
                command["durable.journal.command.name"] = name
            running.span.add_event("durable.invocation.lifecycle.new_command", command)

    # ---- steps ----

    def step_started(self, submission: Submission, attempt: int, entry: int, name: str) -> None:
        """Begin a span below that of the flow that asked for the step; none if that one is not sampled."""
        running, around = self._attempts.get(submission.id), get_current()
        if running is None:
            return
        if not (running.followed if around is running.context else _is_followed(get_current_span(around))):
            return
        attributes = running.ids | {"durable.run.name": name}
        span = running.steps[entry] = LazySpan(
            self._start_late, self._step_names.get(name) or self._step_name(name), around, attributes, time.time_ns()
        )
        attach(span)

    def _start_late(self, name: str, parent: Context, *about: Any) -> Span:
        """As `_start`, in the midst of a step: nothing is raised there."""
        try:
            return self._start(name, parent, *about)
        except Exception as error:
            self._endings.complain("start", error)
            return NonRecordingSpan(get_current_span(parent).get_span_context())

    def _step_name(self, name: str) -> str:
        if len(self._step_names) >= STEP_NAMES_MAX:
            return "run"
        self._step_names[name] = f"run {name}"
        return self._step_names[name]

    def step_ended(
        self, submission: Submission, attempt: int, entry: int, name: str, error: BaseException | None
    ) -> None:
        """Keep the span until the outcome is durable; export it at once if the step has none and may run again."""
        found = self._attempt(submission.id, attempt)
        span = None if found is None else found.steps.get(entry)
        if found is None or span is None:
            return
        span.ended_ns = time.time_ns()
        if error is not None:
            _tell_of(span.span, error)
        if error is not None and failure_of_exception(error) is None:
            self._end(found.steps.pop(entry), span.ended_ns)
        elif found is not self._attempts.get(submission.id):  # too late for the journal
            self._not_recorded({entry: found.steps.pop(entry)})
        if self._over:
            self._prune(submission.id)

    def step_recorded(self, submission: Submission, attempt: int, entry: int) -> None:
        """Export its span."""
        found = self._attempt(submission.id, attempt)
        span = None if found is None else found.steps.pop(entry, None)
        if span is not None:
            self._end(span, span.ended_ns)
            if self._over:
                self._prune(submission.id)

    def _attempt(self, id: str, number: int) -> _Attempt | None:
        """One that runs, or that is over while steps of it are not."""
        running = self._attempts.get(id)
        if running is not None and running.number == number:
            return running
        return self._over[id].get(number) if id in self._over else None

    def _left_over(self, id: str) -> None:
        """A failure that came to nothing (a kill was faster), and steps that were executed and are in no journal."""
        failing = self._failing.pop(id, None)
        if failing is not None:
            self._end(failing.span, failing.ended_ns)
        for attempt in [*self._over.get(id, {}).values(), *filter(None, [self._attempts.get(id)])]:
            self._not_recorded(attempt.steps)
        self._prune(id)

    def _not_recorded(self, steps: dict[int, LazySpan]) -> None:
        for entry, span in list(steps.items()):
            if span.ended_ns:
                del steps[entry]
                span.span.set_attribute("durable.step.recorded", False)
                self._end(span, span.ended_ns)

    def _prune(self, id: str) -> None:
        going_on = {number: attempt for number, attempt in self._over.pop(id, {}).items() if attempt.steps}
        if going_on:
            self._over[id] = going_on


def low(submission: Submission) -> str:
    """Its target without the key, of which there may be any number."""
    return _low(submission.service, submission.key, submission.handler)


def _low(service: str, key: str | None, handler: str) -> str:
    return f"{service}/{handler}" if key is None else f"{service}/{{key}}/{handler}"


def _ids(submission: Submission) -> dict[str, Any]:
    target = submission.target
    return {
        "durable.invocation.id": submission.id,
        "durable.invocation.target": target,
        "restate.invocation.id": submission.id,
        "restate.invocation.target": target,
    }


def _common(submission: Submission, ids: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"rpc.service": submission.service, "rpc.method": submission.handler} | (ids or _ids(submission))


def _is_followed(span: Span) -> bool:
    """Whether what happens below it is to be told of."""
    return span.is_recording() or bool(span.get_span_context().trace_flags & TraceFlags.SAMPLED)


def _links(span: SpanContext | None) -> Sequence[Link]:
    return [Link(span)] if span is not None and span.is_valid else []


def _tell_of(span: Span, error: BaseException, how: str = "") -> None:
    if span.is_recording():
        problem = problem_of(error, 0, "", "")  # whatever its own methods do
        exception = {
            "exception.type": problem.type,
            "exception.message": problem.message[:MESSAGE_MAX],
            "exception.stacktrace": problem.stacktrace,
        }
        span.add_event("exception", exception)
        span.set_status(Status(StatusCode.ERROR, f"{how}{problem.type}"))
