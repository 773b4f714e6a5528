"""Answers, and errors as Restate's ingress tells them: by the ingress itself, or by an invocation."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from durable.core.journal import Failure, Outcome, failure_of
from durable.engine.raw import Standing
from durable.remote.envelope import INPUT_DIFFERS
from durable.views.moments import instant
from durable.web.security import Refusal

_JSON = (b"content-type", b"application/json")


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: Iterable[tuple[bytes, bytes]] = ()


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer that is an error."""

    code: int
    message: str
    source: Literal["ingress", "invocation"]
    metadata: dict[str, str] = {}
    #: The class of the error, where the status does not tell; of an invocation: "cancelled", "killed", "timeout".
    kind: str = ""
    #: Of a cancelled one: how the call ended that was cancelled first.
    cause: Failure | None = None
    #: All that is stored of it, where it is of a class of the user's: for clients of the control socket alone.
    failure: Failure | None = None


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An invocation that cannot be lost any more."""

    invocation_id: str
    #: Whether it is new, or what an idempotency key had named before.
    status: Literal["Accepted", "PreviouslyAccepted"]
    #: When it starts, where that is later.
    execution_time: str | None = None


class LookedUp(msgspec.Struct, frozen=True, rename="camel"):
    """The id that a target has, whether it exists or not."""

    invocation_id: str


class Services(msgspec.Struct, frozen=True):
    """The engine runs, and has these."""

    services: list[str]


_encode = msgspec.json.Encoder().encode
_problem = msgspec.json.Decoder(Problem).decode


def json(value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Answer:
    """A JSON answer."""
    return Answer(status, _encode(value), (_JSON, *headers))


def problem(refusal: Refusal, id: str | None = None) -> Answer:
    """An error that the ingress makes; `id` is the invocation that it is about, if it is about one."""
    told = [(name.encode(), value.encode("latin-1", "replace")) for name, value in refusal.headers.items()]
    body = Problem(refusal.status, refusal.message, "ingress", dict(refusal.metadata), refusal.kind)
    about = () if id is None else (_id(id),)
    return json(body, refusal.status, ((b"x-restate-error-source", b"ingress"), *about, *told))


def failed(id: str, failure: Failure, kind: str = "", *, exact: bool = False) -> Answer:
    """An error that an invocation ended with. `exact`: for a client of ours, which makes the same error of it."""
    code = failure.code
    status = code if 400 <= code <= 599 else 500  # a failure never looks like a success, or like no answer
    kind = kind or ("" if failure.kind == "terminal" else failure.kind)
    told = plain(failure)
    stored = failure if exact and failure != told else None
    body = Problem(code, failure.message, "invocation", failure.metadata, kind, told.cause, stored)
    return json(body, status, (_id(id), (b"x-restate-error-source", b"invocation")))


def plain(failure: Failure) -> Failure:
    """Without what only Python code is to see: its class, its attributes."""
    cause = None if failure.cause is None else plain(failure.cause)
    return msgspec.structs.replace(failure, type="", attributes={}, raw_attributes={}, cause=cause)


def without_class(body: bytes) -> bytes:
    """The body of `failed`, as it is without `exact`."""
    return _encode(msgspec.structs.replace(_problem(body), failure=None))


def ended(standing: Standing, outcome: Outcome, content_type: str, data: bytes, *, exact: bool = False) -> Answer:
    """The outcome of an invocation; `data` is its value as it travels. See `failed`."""
    id, expires_at = standing.id, standing.expires_at
    if not outcome.ok:
        answer = failed(id, failure_of(outcome), exact=exact)
        headers = list(answer.headers)
    else:
        answer = Answer(200, data)
        headers = [_id(id)]
        if content_type:
            headers.append((b"content-type", content_type.encode("latin-1", "replace")))
    if expires_at is not None:
        headers.append((b"idempotency-expires", instant(expires_at).encode()))
    headers += _differs(standing)
    return Answer(answer.status, answer.body, headers)


def accepted(standing: Standing) -> Answer:
    """An invocation that nobody waits for."""
    starts = None if standing.due_at is None else instant(standing.due_at)
    body = Accepted(standing.id, "PreviouslyAccepted" if standing.known else "Accepted", starts)
    return json(body, 202, (_id(standing.id), *_differs(standing)))


def _differs(standing: Standing) -> list[tuple[bytes, bytes]]:
    return [(INPUT_DIFFERS.encode(), b"true")] if standing.input_differs else []


def _id(id: str) -> tuple[bytes, bytes]:
    return b"x-restate-id", id.encode()
