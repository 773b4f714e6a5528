"""A request with an idempotency key takes effect once: repeated, it gets the first answer.

The answer is stored in the transaction of the effect. A refusal is not stored: nothing was done, so the request may
be repeated.
"""

from collections.abc import Callable
from typing import Any

from durable.core.commands import (
    Cancel,
    CompleteEntry,
    Kill,
    Pause,
    Purge,
    Restart,
    Resume,
    SendSignal,
    SettlePromise,
)
from durable.core.effects import Answer, Need, Reply
from durable.core.invocation import Invocation, Status
from durable.core.once import KEPT_MS, NOBODY, Answered, Place, owned_by
from durable.core.record_commands import Reposition, SetCluster, Subscribe, Unsubscribe
from durable.core.sealed import Sealed
from durable.core.topics import promise_topic
from durable.core.turn import Turn, found_of
from durable.core.world import World

#: What is asked of one invocation.
OfInvocation = CompleteEntry | SendSignal | Cancel | Kill | Pause | Resume | Restart | Purge
Asked = OfInvocation | SettlePromise | Subscribe | Unsubscribe | Reposition | SetCluster

_ANSWERS = frozenset(str(answer) for answer in Answer)
_BEFORE_OR_AFTER = (Status.SCHEDULED, Status.PENDING, Status.COMPLETED)


def once(apply: Callable[[Turn, Any], None]) -> Callable[[Turn, Any], None]:
    """`apply`, unless the key of the command was used for the same thing before."""

    def applied(turn: Turn, command: Asked) -> None:
        if command.once is None:
            apply(turn, command)
            return
        if isinstance(command, SettlePromise):
            turn.renew(command.service, command.key)  # what an earlier run was asked is over, too
        for place in places(turn.world, command):
            before = turn.answered(place)
            if before is not None:
                turn.actions.append(again(command, before, invocation_of(turn, command)))
                return
        count = len(turn.actions)
        apply(turn, command)
        for action in turn.actions[count:]:
            if type(action) is Reply and action.token == command.token and took(command, action.result):
                remember(turn, command, action)

    return applied


def again(command: Asked, before: Answered, invocation: Invocation | None) -> Reply:
    """The answer of the command before this one with the same key."""
    assert command.once is not None
    if before.damage:
        return Reply(command.token, Answer.UNSURE, cause=before.damage)
    result = Answer(before.result) if before.result in _ANSWERS else Status(before.result)
    found = None if invocation is None else found_of(invocation)
    differs = before.print != command.once.print and not isinstance(before.print, Sealed)
    return Reply(command.token, result, id=before.id, found=found, differs=differs)


def needs_once(needs: Callable[[World, Any, Need], None] | None) -> Callable[[World, Any, Need], None]:
    """`needs` and, for a command with a key, the answers to earlier ones."""

    def needed(world: World, command: Asked, need: Need) -> None:
        if needs is not None:
            needs(world, command, need)
        if command.once is not None:
            need.answered.update(place for place in places(world, command) if place not in world.answered)

    return needed


def remember(turn: Turn, command: Asked, reply: Reply) -> None:
    """Keep the answer as long as its owner; or for a day, if that is gone by now, or if a day is enough."""
    assert command.once is not None
    owner = NOBODY if command.once.brief else places(turn.world, command)[0].owner
    place = Place(owner, about(command), command.once.key)
    until = 0 if owner != NOBODY else turn.now + KEPT_MS
    turn.remember(place, Answered(str(reply.result), reply.id, command.once.print, until))


def places(world: World, command: Asked) -> list[Place]:
    """Where the answer may be: with its owner, if that exists, or without one, if it was gone at the time."""
    assert command.once is not None
    owners = [NOBODY]
    if isinstance(command, SettlePromise):
        owners = [promise_topic(command.service, command.key, ""), NOBODY]
    elif isinstance(command, OfInvocation):
        invocation = world.find(command.id)
        if invocation is not None:
            owners = [owned_by(invocation.seq), NOBODY]
    return [Place(owner, about(command), command.once.key) for owner in owners]


def about(command: Asked) -> str:
    """What is asked, and of what."""
    match command:
        case CompleteEntry():
            return f"awakeable/{command.id}/{command.run}/{command.entry}"
        case SendSignal():
            return f"signal/{command.id}/{command.name}"
        case SettlePromise():
            return promise_topic(command.service, command.key, command.name)
        case Purge():
            return f"{'purge-journal' if command.journal_only else 'purge'}/{command.id}"
        case Subscribe():
            return "subscribe"
        case SetCluster():
            return f"{'remove' if command.cluster is None else 'set'}-cluster/{command.name}"
    return f"{type(command).__name__.lower()}/{command.id}"


def took(command: Asked, result: Answer | Status) -> bool:
    """Whether an answer says that it took effect (or need not), rather than that it was refused."""
    if isinstance(command, Pause | Resume):
        return isinstance(result, Status) and result not in _BEFORE_OR_AFTER
    return result in (Answer.DONE, Answer.ACCEPTED)


def invocation_of(turn: Turn, command: Asked) -> Invocation | None:
    """The invocation that the command is about, if there is one."""
    return turn.find(command.id) if isinstance(command, OfInvocation) else None
