"""What must hold of a store's content: one checker for each promise.

`check_tables` looks at what an engine leaves behind, however it stopped; `check_commit` at one transaction, against
what is stored before it.
"""

from durable.core.effects import Writes
from durable.core.invocation import Flavor, Invocation, Status
from durable.core.journal import COMMAND, Kind
from durable.core.lifecycle.cancel import has_leaves
from durable.core.once import NOBODY
from durable.core.topics import output_topic, promise_topic
from durable.store.memory import Tables
from durable.store.rows import attach_journal, invocation_of

Invocations = dict[int, Invocation]

#: Invocations that have a moment of their own to wait for.
DUE = (Status.SCHEDULED, Status.BACKING_OFF)
#: Those whose turn has not come.
BEFORE_ITS_TURN = (Status.SCHEDULED, Status.PENDING)


def check_tables(tables: Tables) -> None:
    """All checkers of what is stored. Raises `AssertionError` naming the rule."""
    invocations = stored(tables)
    no_orphans(tables, invocations)
    entries_have_no_holes(tables)
    outcomes_are_in_order(tables)
    who_waits_for_a_moment_has_a_timer(tables, invocations)
    who_listens_waits_for_news(tables, invocations)
    one_holder_per_key(invocations)
    completed_hold_nothing(tables, invocations)
    calls_find_their_callers(invocations)
    a_cancel_waits_for_something(tables, invocations)
    a_cancel_leaves_no_call_behind(tables, invocations)
    only_what_has_begun_is_paused(invocations)
    suspended_wait_for_what_is_open(invocations)
    purged_journals_are_gone(tables, invocations)


def stored(tables: Tables) -> Invocations:
    """All that is stored and can be read, with what the core keeps in memory of those that are not completed."""
    invocations = {seq: invocation_of(row) for seq, row in tables.invocations.items()}
    for seq, invocation in invocations.items():
        if invocation.status is not Status.COMPLETED and not invocation.damaged:
            attach_journal(invocation, [row for _, row in sorted(tables.journal.get(seq, {}).items())])
    return invocations


def no_orphans(tables: Tables, invocations: Invocations) -> None:
    """I8: every journal row, timer, listener, signal and answer belongs to an invocation, or to a workflow's key."""
    for seq in tables.journal:
        assert seq in invocations, f"I8 violated: journal rows of a missing invocation {seq}"
    for _, seq, _ in tables.timers:
        assert seq in invocations, f"I8 violated: a timer of a missing invocation {seq}"
    for topic, listeners in tables.listeners.items():
        for seq, _ in listeners:
            assert seq in invocations, f"I8 violated: a missing invocation {seq} listens to {topic}"
    for seq, signals in tables.signals.items():
        assert not signals or seq in invocations, f"I8 violated: signals for a missing invocation {seq}"
    promises = {promise_topic(*key, "") for key in tables.promises}
    for owner, answers in tables.answered.items():
        known = owner in promises or (owner.isdecimal() and int(owner) in invocations)
        assert known or owner == NOBODY, f"I8 violated: answers of a missing {owner}: {sorted(answers)}"


def entries_have_no_holes(tables: Tables) -> None:
    """An entry is recorded before the next one, so a replay can always tell what was asked."""
    for seq, rows in tables.journal.items():
        commands = sorted(entry for entry, part in rows if part == COMMAND and entry)
        assert commands == list(range(1, len(commands) + 1)), f"journal {seq} has holes: {commands}"


def outcomes_are_in_order(tables: Tables) -> None:
    """I5: every outcome that was told has its command and a place of its own, and no entry has two."""
    for seq, rows in tables.journal.items():
        told = [row for row in rows.values() if row.ordinal is not None]
        assert len({row.ordinal for row in told}) == len(told), f"I5 violated: two outcomes of {seq} share a place"
        ended = [row.entry for row in told if row.entry]
        assert len(set(ended)) == len(ended), f"I5 violated: an entry of {seq} has two outcomes"
        for entry in ended:
            assert (entry, COMMAND) in rows, f"I8 violated: entry {entry} of {seq} ended, and was never asked for"


def who_waits_for_a_moment_has_a_timer(tables: Tables, invocations: Invocations) -> None:
    """I6: who waits for a moment has a timer, it is the right one, and there are no others."""
    wanted: dict[tuple[int, int, int], str] = {}
    for seq, invocation in invocations.items():
        if invocation.status in DUE:
            wanted[invocation.due_at or 0, seq, 0] = str(invocation.status)
        elif not invocation.damaged:
            assert invocation.due_at is None, f"I6 violated: {invocation.id} is {invocation.status} and due"
        for entry, waits in invocation.open.items():
            if waits.kind is Kind.SLEEP and isinstance(waits.ref, int):
                wanted[waits.ref, seq, entry] = f"asleep at entry {entry}"
    for timer, why in wanted.items():
        assert timer in tables.timers, f"I6 violated: {invocations[timer[1]].id} is {why} without a timer"
    for timer in tables.timers:
        invocation = invocations[timer[1]]
        assert timer in wanted or invocation.damaged, f"I6 violated: {invocation.id} has no use for the timer {timer}"


def who_listens_waits_for_news(tables: Tables, invocations: Invocations) -> None:
    """I7: who waits for a promise or another's outcome listens to it, nobody else does, and it is still to come."""
    topics = {output_topic(one.id): one for one in invocations.values() if one.status is Status.COMPLETED}
    wanted = {
        (str(waits.ref), seq, entry)
        for seq, invocation in invocations.items()
        for entry, waits in invocation.open.items()
        if waits.kind in (Kind.PROMISE, Kind.ATTACH)
    }
    for topic, seq, entry in wanted:
        assert (seq, entry) in tables.listeners.get(topic, ()), f"I7 violated: {seq} waits in vain for {topic}"
    for topic, listeners in tables.listeners.items():
        assert not listeners or topic not in topics, f"I7 violated: {topic} was told, and {listeners} still listen"
        for seq, entry in listeners:
            assert (topic, seq, entry) in wanted or invocations[seq].damaged, f"I8 violated: {seq} needs no {topic}"


def one_holder_per_key(invocations: Invocations) -> None:
    """I4: of the exclusive invocations of a key only the first has had its turn."""
    first: dict[tuple[str, str | None], int] = {}
    queued = [one for one in invocations.values() if one.queued is not None]
    for invocation in sorted(queued, key=lambda one: one.queued or 0):
        key = (invocation.submission.service, invocation.submission.key)
        holder = first.setdefault(key, invocation.seq)
        pending = invocation.status is Status.PENDING
        assert pending == (holder != invocation.seq), f"I4 violated: {invocation.id} of {key} is {invocation.status}"
    for invocation in invocations.values():
        waits_for_nothing = invocation.status in (Status.SCHEDULED, Status.COMPLETED) or invocation.damaged
        if invocation.submission.flavor is Flavor.EXCLUSIVE and not waits_for_nothing:
            assert invocation.queued is not None, f"I4 violated: {invocation.id} is in no queue"
        elif invocation.queued is None and not waits_for_nothing:
            assert invocation.status is not Status.PENDING, f"I7 violated: {invocation.id} is pending for no key"


def completed_hold_nothing(tables: Tables, invocations: Invocations) -> None:
    """A completed invocation has no timer, no place in a queue, no signals, and waits for nothing."""
    for _, seq, entry in tables.timers:
        status = invocations[seq].status
        assert status is not Status.COMPLETED, f"I6 violated: completed {seq} has a timer for entry {entry}"
    for seq, invocation in invocations.items():
        if invocation.status is Status.COMPLETED:
            assert invocation.queued is None, f"I4 violated: completed {invocation.id} is queued"
            assert invocation.outcome is not None, f"I5 violated: completed {invocation.id} has no outcome"
            assert not invocation.cancelling, f"I7 violated: completed {invocation.id} is still being cancelled"
            assert not invocation.pausing, f"I7 violated: completed {invocation.id} is still to be paused"
            assert invocation.waiting is None, f"I7 violated: completed {invocation.id} waits"
            assert not tables.signals.get(seq), f"I8 violated: completed {invocation.id} has signals"
        else:
            assert invocation.outcome is None, f"I5 violated: {invocation.status} {invocation.id} has an outcome"


def calls_find_their_callers(invocations: Invocations) -> None:
    """I7: the caller of a call that has not ended still waits for it, unless it has ended itself."""
    for invocation in invocations.values():
        caller = invocation.submission.caller
        if caller is None or not caller.waits or invocation.status is Status.COMPLETED:
            continue
        waiting = invocations.get(caller.seq)
        if waiting is None or waiting.status is Status.COMPLETED or waiting.damaged:
            continue
        waits = waiting.open.get(caller.entry)
        assert waits is not None, f"I7 violated: {waiting.id} does not wait for its call {invocation.id}"
        assert waits.ref == invocation.id, f"I7 violated: {waiting.id} waits for {waits.ref}, not for {invocation.id}"


def a_cancel_waits_for_something(tables: Tables, invocations: Invocations) -> None:
    """I7: a cancel that is not told yet has a call or a step to wait for; only then is a call's end kept from it."""
    for invocation in invocations.values():
        if invocation.status is Status.COMPLETED or invocation.damaged:
            continue
        if invocation.cancelling:
            assert has_leaves(invocation), f"I7 violated: nobody will tell {invocation.id} that it was cancelled"
            assert invocation.status not in BEFORE_ITS_TURN, f"I7 violated: {invocation.id} has nothing to end"
        kept = list(invocation.kept)
        assert invocation.cancelling or not kept, f"I7 violated: {invocation.id} is not told how {kept} ended"
        for entry in kept:
            assert entry in invocation.open, f"I8 violated: the kept outcome {entry} of {invocation.id} was told"


def a_cancel_leaves_no_call_behind(tables: Tables, invocations: Invocations) -> None:
    """Leaf first: what a handler had called before it was told of its cancel has ended. (More: `check_commit`.)"""
    for invocation in invocations.values():
        caller = invocation.submission.caller
        if caller is None or not caller.waits or invocation.status is Status.COMPLETED:
            continue
        rows = tables.journal.get(caller.seq, {})
        told = max((row.at for row in rows.values() if row.entry == 0), default=0)
        asked = rows.get((caller.entry, COMMAND))
        beside = asked is None or asked.at >= told
        assert beside, f"leaf-first violated: {caller.id} was told of its cancel, its call {invocation.id} runs"


def only_what_has_begun_is_paused(invocations: Invocations) -> None:
    """A pause waits for an attempt that runs, or is over."""
    for invocation in invocations.values():
        begun = invocation.status in (Status.RUNNING, Status.PAUSED)
        assert begun or not invocation.pausing, f"I7 violated: {invocation.status} {invocation.id} is to be paused"


def suspended_wait_for_what_is_open(invocations: Invocations) -> None:
    """I7: whatever a suspended invocation waits for is still to come; nobody else waits."""
    for invocation in invocations.values():
        waiting = invocation.waiting
        if invocation.status is Status.SUSPENDED:
            assert waiting is not None, f"I7 violated: {invocation.id} is suspended and waits for nothing"
            gone = [entry for entry in waiting.entries() if entry not in invocation.open]
            assert not gone, f"I7 violated: {invocation.id} waits for {waiting}, of which {gone} have come"
        else:
            assert waiting is None, f"I7 violated: {invocation.id} is {invocation.status} and waits for {waiting}"


def purged_journals_are_gone(tables: Tables, invocations: Invocations) -> None:
    """I8: only a completed invocation can be without its journal, and then it has none."""
    for seq, invocation in invocations.items():
        if not invocation.journal_kept and not invocation.damaged:
            assert invocation.status is Status.COMPLETED, f"I8 violated: {invocation.id} lost its journal"
            assert not tables.journal.get(seq), f"I8 violated: {invocation.id} has a journal that was purged"


# ---- one commit ----


def check_commit(tables: Tables, writes: Writes) -> None:
    """All checkers of a transaction that is about to be written. Raises `AssertionError` naming the rule."""
    writes = writes.with_all()
    before = {seq: invocation_of(tables.invocations[seq]) for seq in _concerned(tables, writes)}
    only_running_handlers_write(before, writes)
    what_ended_stays_as_it_is(before, writes)
    calls_end_before_their_caller_is_told(tables, writes)


def _concerned(tables: Tables, writes: Writes) -> set[int]:
    """The numbers of those that are stored already, and that it changes or writes for."""
    return {*writes.changed, *writes.purged, *(row.invocation for row in writes.journal)} & tables.invocations.keys()


def only_running_handlers_write(before: Invocations, writes: Writes) -> None:
    """R-26: a handler asks for entries only while it runs: paused, suspended, killed, it can do nothing."""
    for row in writes.journal:
        seq = row.invocation
        if seq in writes.created:
            continue  # the first entries of another's journal
        assert seq in before, f"I8 violated: {row} is written for nobody"
        status = before[seq].status
        assert status is not Status.COMPLETED, f"R-26 violated: {row} is written for a completed invocation"
        asked = row.part == COMMAND and row.entry
        assert not asked or status is Status.RUNNING, f"R-26 violated: {row} is asked for by one that is {status}"


def what_ended_stays_as_it_is(before: Invocations, writes: Writes) -> None:
    """I1, I5: a completed invocation keeps its outcome, only completed ones are forgotten, attempts count up."""
    for seq, invocation in writes.changed.items():
        was = before[seq]
        assert was.attempt <= invocation.attempt, f"R-26 violated: attempt {invocation.attempt} of {was.id} again"
        if was.status is Status.COMPLETED:
            assert invocation.status is Status.COMPLETED, f"I1 violated: {was.id} was completed"
            assert was.outcome == invocation.outcome, f"I5 violated: {was.id} had ended with {was.outcome}"
    for seq in writes.purged:
        ended = seq in writes.created or seq not in before or before[seq].status is Status.COMPLETED
        assert ended or before[seq].submission.completion_retention_ms <= 0, f"I1 violated: {seq} is lost"


def calls_end_before_their_caller_is_told(tables: Tables, writes: Writes) -> None:
    """Leaf first: the transaction that tells a handler of its cancel leaves none of its calls open."""
    told = {row.invocation for row in writes.journal if row.entry == 0 and row.invocation not in writes.created}
    if not told:
        return
    after = {seq: invocation_of(row) for seq, row in tables.invocations.items() if seq not in writes.purged}
    for invocation in [*after.values(), *writes.created.values(), *writes.changed.values()]:
        after[invocation.seq] = invocation
    for invocation in after.values():
        caller = invocation.submission.caller
        if caller is not None and caller.waits and caller.seq in told and invocation.seq not in writes.purged:
            ended = invocation.status is Status.COMPLETED
            assert ended, f"leaf-first violated: {caller.id} is told of its cancel, its call {invocation.id} runs"
