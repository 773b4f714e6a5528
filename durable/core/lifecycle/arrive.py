"""The outcome of an open entry arrives: write it, and go on where the handler waited for just that."""

from durable.core.invocation import Invocation, Status
from durable.core.journal import Kind, Outcome, Row
from durable.core.turn import Turn


def arrive(turn: Turn, invocation: Invocation, entry: int, outcome: Outcome) -> None:
    """Write it, and wake the handler if that is what it waits for."""
    kind = invocation.open.pop(entry).kind
    turn.complete_entry(invocation, entry, outcome, kind)
    if invocation.failures or invocation.crashes:  # the handler has got further: its retry budget is full again
        invocation.failures = 0
        turn.trusted(invocation)
        turn.touch(invocation)
    if invocation.waiting is not None and invocation.status is Status.SUSPENDED:
        fewer = invocation.waiting.came(entry, outcome.ok)
        if invocation.waiting.over:
            turn.start(invocation)
        elif fewer and invocation.waiting.worth_storing():
            turn.touch(invocation)


def keep(turn: Turn, invocation: Invocation, entry: int, outcome: Outcome, kind: Kind) -> None:
    """Write an outcome that must not be delivered yet: its entry is not recorded, or a cancel has to come first."""
    turn.writes.journal.append(Row.completion(invocation.seq, entry, kind, outcome, None, turn.now))
