"""What follows an attempt that has ended without an outcome: the next one, a wait, or a pause. Decided here alone."""

import msgspec

from durable.core.effects import Paused
from durable.core.invocation import Invocation, Status
from durable.core.lifecycle.cancel import give_steps_up, leaf_ended
from durable.core.turn import Turn
from durable.core.waiting import Awaited, Group


class Again(msgspec.Struct, frozen=True, gc=False):
    """It starts again at once."""

    #: A cancel has come that its handler has not seen: what that was trying goes no further.
    cancelled: bool = False


class BackOff(msgspec.Struct, frozen=True, gc=False):
    """It starts again at a time that is stored."""

    retry_at: int


class Wait(msgspec.Struct, frozen=True, gc=False):
    """It starts again when this has come."""

    waiting: int | Group


class Stop(msgspec.Struct, frozen=True, gc=False):
    """It starts again when somebody says so."""


Then = Again | BackOff | Wait | Stop


def after(turn: Turn, invocation: Invocation, then: Then) -> None:
    """Go on as `then` says, or rest where it was to be paused. A cancel that waited for the attempt's end is told."""
    if isinstance(then, Again) and then.cancelled:
        invocation.status = Status.BACKING_OFF  # nobody runs: what is given up is told to no attempt
        give_steps_up(turn, invocation)
    if invocation.pausing:
        then = Stop()
    match then:
        case Again():
            turn.start(invocation)
        case BackOff(retry_at):
            turn.leave(invocation, Status.BACKING_OFF)
            invocation.due_at = retry_at
            turn.add_timer(retry_at, invocation.seq, 0)
        case Wait(waiting):
            turn.leave(invocation, Status.SUSPENDED)
            invocation.waiting = Awaited(waiting)
        case Stop():
            park(turn, invocation)
    leaf_ended(turn, invocation)


def park(turn: Turn, invocation: Invocation) -> None:
    """It waits for an operator; what arrives meanwhile is stored."""
    turn.cool(invocation)
    turn.leave(invocation, Status.PAUSED)
    invocation.waiting = None
    turn.actions.append(Paused(invocation))
