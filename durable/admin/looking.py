"""What an operator looks for: invocations by what is known of them, one in full, what it called, deadlocks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from anyio import to_thread
from starlette.responses import Response

from durable.admin.operations import SMALL, Answer, Call, Operation, json
from durable.admin.wire import (
    Described,
    DurationText,
    InvocationId,
    Journal,
    Listed,
    MomentText,
    SubscriptionId,
    described,
    hidden,
    hidden_journal,
    journal,
    listed,
)
from durable.core.duration import parse
from durable.core.ids import is_invocation_id, is_subscription_id
from durable.engine.reading import STATUSES
from durable.errors import NotFoundError
from durable.views.invocations import InvocationView
from durable.web.errors import BadRequest

T = TypeVar("T")
_STATUS = f"({'|'.join(sorted(STATUSES))})"
_STATUSES = f"^ *{_STATUS} *(, *{_STATUS} *)*$"


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which invocations are wanted; what is given must all be true."""

    service: str | None = None
    handler: str | None = None
    key: str | None = None
    #: One status or several, with commas between them.
    status: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": _STATUSES})] | None = None
    #: Accepted at least so long ago: "1h", "2 days".
    older_than: DurationText | None = None
    #: Accepted at most so long ago.
    newer_than: DurationText | None = None
    #: Accepted at this moment or later, or before it; RFC 3339.
    created_after: MomentText | None = None
    created_before: MomentText | None = None
    #: Text in the last failure, or in the failure that it ended with. Case counts.
    failure: str | None = None
    #: The reason of the last failure, where it is one for which an invocation is paused at once.
    reason: str | None = None
    #: The id of the invocation that called or sent it.
    parent: InvocationId | None = None
    #: The id of the subscription whose record it was.
    subscription: SubscriptionId | None = None
    idempotency_key: str | None = None


class Wanted(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which invocations to list, and how many."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: `next` of the page before.
    cursor: str | None = None
    #: Whether to count, by status, all that are wanted.
    counts: bool = False


class Listing(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page of invocations, newest first.

    A page takes bounded time: where few of many are wanted, it may hold less than `limit`, or nothing, and have a
    `next`.
    """

    invocations: list[Listed]
    #: What to give as `cursor` for the next page; absent where there is none.
    next: str | None = None
    #: How many there are of each status, on all pages.
    counts: dict[str, int] | None = None
    #: False where counting all would have taken too long: there may be more of each.
    counts_complete: bool = True


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """An invocation in a tree."""

    id: str
    target: str
    #: "call" or "send"; empty at the root.
    kind: str = ""
    #: Which entry of its parent's journal asked for it.
    entry: int = 0
    #: Absent where it is forgotten, or was not looked at.
    status: str | None = None
    completion_result: str | None = None
    children: "list[Node]" = []


class Tree(msgspec.Struct, frozen=True):
    """An invocation, what it called and sent, and so on."""

    root: Node
    #: Whether there is more than was looked at: ask for a child, or with a higher `limit`.
    truncated: bool


class TreeLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a tree to look at."""

    #: How many invocations, level by level.
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200


class JournalWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of a journal to show."""

    #: How many entries.
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    #: `next` of the page before.
    after: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] | None = None


class Member(msgspec.Struct, frozen=True):
    """One of those that wait for each other."""

    id: str
    target: str
    status: str


class Circle(msgspec.Struct, frozen=True):
    """Invocations that wait for each other: each for the next, the last for the first."""

    members: list[Member]
    description: str


class Circles(msgspec.Struct, frozen=True):
    """All circles."""

    deadlocks: list[Circle]


#: How many invocations of a tree are asked for at the same time: the store reads them between two commits.
AT_ONCE = 25


async def list_invocations(call: Call) -> Response:
    """Invocations, newest first, a page at a time.

    A page begins after the cursor, whatever was accepted meanwhile.
    """
    wanted = call.query
    filters = _filters(call, wanted)
    page = await call.engine.page(**filters, limit=wanted.limit, cursor=wanted.cursor, counts=wanted.counts)
    if call.exact:
        shown = [hidden(view, show_payloads=call.admin.show_payloads) for view in page.invocations]
        return json(msgspec.structs.replace(page, invocations=shown))
    return json(Listing([listed(view) for view in page.invocations], page.next, page.counts, page.counts_complete))


async def count_invocations(call: Call) -> Response:
    """How many invocations there are of each status, all counted."""
    return json(await call.engine.count_invocations(**_filters(call, call.query)))


def _filters(call: Call, wanted: Filters) -> dict[str, Any]:
    engine = call.engine
    engine.check_running()
    now = engine.now_ms()
    after, before = _moment("created_after", wanted.created_after), _moment("created_before", wanted.created_before)
    if wanted.newer_than is not None:
        after = max(after or 0, now - _ms("newer_than", wanted.newer_than))
    if wanted.older_than is not None:
        before = min(before or now, now - _ms("older_than", wanted.older_than))
    if wanted.parent is not None and not is_invocation_id(wanted.parent):
        raise BadRequest(400, f"parent: {wanted.parent!r} is no invocation id")
    if wanted.subscription is not None and not is_subscription_id(wanted.subscription):
        raise BadRequest(400, f"subscription: {wanted.subscription!r} is no id of a subscription")
    if wanted.subscription is not None and wanted.parent is not None:
        raise BadRequest(400, "parent, subscription: an invocation has one of them at most, so give one")
    return {
        "service": wanted.service,
        "handler": wanted.handler,
        "key": wanted.key,
        "status": None if wanted.status is None else [one.strip() for one in wanted.status.split(",")],
        "created_after": after,
        "created_before": before,
        "failure": wanted.failure,
        "reason": wanted.reason,
        "caller": wanted.parent or wanted.subscription,
        "idempotency_key": wanted.idempotency_key,
    }


async def describe_invocation(call: Call) -> Response:
    """All that is known of one invocation, but for its journal."""
    view = await _view(call, call.path["id"])
    if call.exact:
        values = (view.input, view.output, *(one.value for one in view.journal))
        return await _written(call, partial(hidden, view), values)
    return await _written(call, partial(described, view), (view.input, view.output))


async def get_journal(call: Call) -> Response:
    """What its handler did, in its order, a page at a time."""
    wanted, ask = call.query, call.engine.journal
    page = await _found(call.path["id"], partial(ask, after=wanted.after, limit=wanted.limit))
    form = journal if not call.exact else hidden_journal
    return await _written(call, partial(form, page), [one.value for one in page.entries])


async def get_children(call: Call) -> Response:
    """What it called and sent, what those called and sent, and so on."""
    left, truncated = call.query.limit - 1, False
    root = _Growing(await _view(call, call.path["id"]))
    level = [root]
    while level:
        grown = [
            (parent, _Growing(None, child.id, child.target, child.kind, child.entry))
            for parent in level
            for child in (parent.view.children if parent.view is not None else ())
        ]
        for parent, one in grown:
            parent.children.append(one)
        looked_at = [one for _, one in grown[:left]]
        truncated = truncated or len(grown) > left
        left -= len(looked_at)
        for start in range(0, len(looked_at), AT_ONCE):
            some = looked_at[start : start + AT_ONCE]
            views = await asyncio.gather(*(_if_found(call, one.id) for one in some))
            for one, view in zip(some, views, strict=True):
                one.view = view
        level = [one for one in looked_at if one.view is not None]
    return json(Tree(root.node(), truncated))


async def list_deadlocks(call: Call) -> Response:
    """Handlers that wait for each other in a circle: none goes on by itself. Cancelling one frees the others."""
    found = await call.engine.deadlocks()
    if call.exact:
        return json(found)
    circles = [
        Circle([Member(one.id, one.target, str(one.status)) for one in deadlock.members], str(deadlock))
        for deadlock in found
    ]
    return json(Circles(circles))


async def _written(call: Call, form: Callable[..., Any], values: Iterable[bytes | None]) -> Response:
    """The answer that `form` gives; where values are large it is made in a thread."""

    def write() -> Response:
        return json(form(show_payloads=call.admin.show_payloads))

    return write() if sum(len(one) for one in values if one) <= SMALL else await to_thread.run_sync(write)


class _Growing:
    """A node whose children are being looked for."""

    def __init__(
        self, view: InvocationView | None, id: str = "", target: str = "", kind: str = "", entry: int = 0
    ) -> None:
        self.view = view
        self.id = view.id if view is not None else id
        self.target = view.target if view is not None else target
        self.kind = kind
        self.entry = entry
        self.children: list[_Growing] = []

    def node(self) -> Node:
        status = self.view.status if self.view is not None else None
        result = self.view.completion_result if self.view is not None else None
        target = self.view.target if self.view is not None else self.target
        return Node(self.id, target, self.kind, self.entry, status, result, [one.node() for one in self.children])


async def _if_found(call: Call, id: str) -> InvocationView | None:
    try:
        return await call.engine.describe(id)
    except NotFoundError:
        return None


async def _view(call: Call, id: str) -> InvocationView:
    return await _found(id, call.engine.describe)


async def _found(id: str, ask: Callable[[str], Awaitable[T]]) -> T:
    if not is_invocation_id(id):
        raise BadRequest(400, "The request field 'invocation_id' is invalid. Reason: bad format")
    try:
        return await ask(id)
    except NotFoundError:
        raise NotFoundError(f"The requested invocation '{id}' does not exist") from None


def _ms(name: str, text: str) -> int:
    try:
        return parse(text)
    except ValueError as error:
        raise BadRequest(400, f"{name}: {error}") from None


def _moment(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(_rfc3339(text))
    except ValueError:
        raise BadRequest(
            400, f"{name}: expected a moment such as 2026-11-29T14:09:25Z, found {text[:60]!r}"
        ) from None
    if moment.tzinfo is None:
        raise BadRequest(400, f"{name}: add the time zone, such as Z")
    return round(moment.timestamp() * 1000)


def _rfc3339(text: str) -> str:
    """Lower case is allowed there; and a plus sign that was not escaped in a query arrives as a space."""
    upper = text.upper()
    return upper.replace(" ", "+") if "T" in upper else upper


_UNKNOWN = {404: Answer("There is no such invocation.")}

OPERATIONS = (
    Operation(
        method="GET", path="/invocations", run=list_invocations, tag="invocations", summary="List invocations",
        query=Wanted, answers={200: Answer("A page.", Listing, names={"id": "/invocations/0/id", "cursor": "/next"})},
    ),
    Operation(
        method="GET", path="/invocation-counts", run=count_invocations, tag="invocations",
        summary="Count invocations", query=Filters, answers={200: Answer("How many, by status.", dict[str, int])},
    ),
    Operation(
        method="GET", path="/invocations/{id}", run=describe_invocation, tag="invocations",
        summary="Describe an invocation", answers={200: Answer("The invocation.", Described), **_UNKNOWN},
    ),
    Operation(
        method="GET", path="/invocations/{id}/journal", run=get_journal, tag="invocations",
        summary="Show the journal of an invocation", query=JournalWanted,
        answers={200: Answer("A page.", Journal, names={"after": "/next"}), **_UNKNOWN},
    ),
    Operation(
        method="GET", path="/invocations/{id}/children", run=get_children, tag="invocations",
        summary="Show what an invocation called", query=TreeLimit,
        answers={200: Answer("The tree.", Tree), **_UNKNOWN},
    ),
    Operation(
        method="GET", path="/deadlocks", run=list_deadlocks, tag="invocations", summary="List circles of waiting",
        answers={200: Answer("The circles.", Circles)},
    ),
)  # fmt: skip
