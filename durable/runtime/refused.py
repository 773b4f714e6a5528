"""A turn that the store refused: nothing of it was written, so each of its commands gets a turn of its own.

Then only one of them fails. Who asked for it is told, or the attempt that did is over and its invocation paused.
"""

import time
from typing import Protocol

from durable import log
from durable.core.commands import Command, Fail, TimerFired
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.core.undo import needs, undo
from durable.core.world import World
from durable.errors import CodecError
from durable.runtime.attempt import Attempt
from durable.runtime.clock import Clock
from durable.runtime.replies import Replies
from durable.runtime.roster import Roster
from durable.runtime.timers import Timers
from durable.store import CommitRefused, Store

#: When a timer fires again whose turn the store refused.
REFUSED_AGAIN_S = 60.0


class Host(Protocol):
    """What this needs of the engine's loop."""

    store: Store
    clock: Clock
    world: World
    attempts: dict[int, Attempt]
    roster: Roster
    replies: Replies
    timers: Timers

    @property
    def stopped(self) -> bool:
        """Whether it has failed or is over: nothing may be written or told any more."""
        ...

    def act(self, turn: Turn, seconds: float) -> None:
        """Do what a turn leads to whose commit took so long."""
        ...


async def one_by_one(host: Host, refused: Turn) -> None:
    """Settle the commands of a refused turn again, in their order."""
    await _undo(host, refused)
    for command in refused.asked:
        culprit = await _alone(host, command)
        if culprit is None:
            continue
        failed = _give_up(host, command, culprit)
        if failed is not None and await _alone(host, failed) is not None:
            log.invocation.warning(
                "invocation number %d cannot even be paused, and waits for the next start", failed.seq
            )


async def _alone(host: Host, command: Command) -> CommitRefused | None:
    """A whole turn of one command; returns why the store refused it, if it did."""
    if host.stopped:
        return None
    turn = Turn(host.world, (command,), host.clock.now_ms())
    while (need := advance(turn)) is not None:
        host.world.admit(need, await host.store.load(need))
    seconds = 0.0
    if turn.writes:
        began = time.perf_counter()
        try:
            await host.store.commit(turn.writes)
        except CommitRefused as refused:
            await _undo(host, turn)
            return refused
        seconds = time.perf_counter() - began
    host.world.end_turn()
    if not host.stopped:
        host.act(turn, seconds)
    return None


def _give_up(host: Host, command: Command, refused: CommitRefused) -> Fail | None:
    """This command cannot be stored: tell who asked for it; returns how the attempt that did has failed."""
    token = getattr(command, "token", 0)
    failed = host.roster.refused(command, refused)
    if token:
        why = refused.__cause__
        host.replies.refuse(token, why if isinstance(why, CodecError) else refused)
    elif failed is None:
        log.engine.warning("%s: %s", type(command).__name__, refused)
    if isinstance(command, TimerFired):  # its moment is stored: it comes again
        timer = (command.due_at, command.seq, command.entry)
        host.timers.add_later(timer, REFUSED_AGAIN_S)
    return failed


async def _undo(host: Host, turn: Turn) -> None:
    live = {seq: attempt.notified for seq, attempt in host.attempts.items()}
    undo(turn, await host.store.load(needs(turn, live)), live)
