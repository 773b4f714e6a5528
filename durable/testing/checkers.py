"""What must hold of a store's content whenever an engine has stopped: a checker a promise."""

from durable.core.invocation import Invocation, Status
from durable.store.memory import Tables
from durable.store.rows import invocation_of


def check_tables(tables: Tables) -> None:
    """All checkers. Raises `AssertionError` naming the rule."""
    invocations = {seq: invocation_of(row) for seq, row in tables.invocations.items()}
    no_orphans(tables, invocations)
    entries_have_no_holes(tables)
    timers_have_their_invocation(tables, invocations)
    one_holder_per_key(invocations)
    completed_hold_nothing(tables, invocations)


def no_orphans(tables: Tables, invocations: dict[int, Invocation]) -> None:
    """I8: every journal row, timer, listener and signal belongs to an invocation."""
    for seq in tables.journal:
        assert seq in invocations, f"I8 violated: journal rows of a missing invocation {seq}"
    for _, seq, _ in tables.timers:
        assert seq in invocations, f"I8 violated: a timer of a missing invocation {seq}"
    for topic, listeners in tables.listeners.items():
        for seq, _ in listeners:
            assert seq in invocations, f"I8 violated: a missing invocation {seq} listens to {topic}"


def entries_have_no_holes(tables: Tables) -> None:
    """An entry is recorded before the next one, so a replay can always tell what was asked."""
    for seq, rows in tables.journal.items():
        commands = sorted(entry for entry, part in rows if part == 0 and entry)
        assert commands == list(range(1, len(commands) + 1)), f"journal {seq} has holes: {commands}"


def timers_have_their_invocation(tables: Tables, invocations: dict[int, Invocation]) -> None:
    """I6: who waits for a moment has a timer, and it is the right one."""
    for invocation in invocations.values():
        if invocation.status in (Status.SCHEDULED, Status.BACKING_OFF):
            timer = (invocation.due_at, invocation.seq, 0)
            assert timer in tables.timers, f"I6 violated: {invocation.id} is {invocation.status} without a timer"


def one_holder_per_key(invocations: dict[int, Invocation]) -> None:
    """I4: of the exclusive invocations of a key only the first has had its turn."""
    first: dict[tuple[str, str | None], int] = {}
    for invocation in sorted(
        (one for one in invocations.values() if one.queued is not None), key=lambda one: one.queued or 0
    ):
        key = (invocation.submission.service, invocation.submission.key)
        holder = first.setdefault(key, invocation.seq)
        pending = invocation.status is Status.PENDING
        assert pending == (holder != invocation.seq), f"I4 violated: {invocation.id} of {key} is {invocation.status}"


def completed_hold_nothing(tables: Tables, invocations: dict[int, Invocation]) -> None:
    """A completed invocation has no timer, no place in a queue, and listens to nothing."""
    for _, seq, entry in tables.timers:
        status = invocations[seq].status
        assert status is not Status.COMPLETED, f"I6 violated: completed {seq} has a timer for entry {entry}"
    for invocation in invocations.values():
        if invocation.status is Status.COMPLETED:
            assert invocation.queued is None, f"I4 violated: completed {invocation.id} is queued"
            assert invocation.outcome is not None, f"I5 violated: completed {invocation.id} has no outcome"
