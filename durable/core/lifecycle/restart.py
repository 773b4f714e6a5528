"""Runs a completed invocation again, as a new one, from its start or over the first entries of its journal."""

import sys
from collections.abc import Sequence

import msgspec

from durable.core.commands import Restart
from durable.core.effects import Answer, Need
from durable.core.ids import awakeable_id
from durable.core.invocation import Flavor, Invocation, Status
from durable.core.journal import CANCELLED, COMMAND, DETACHED, Kind, Row, given_up
from durable.core.needs import need_id, need_journal
from durable.core.turn import Turn
from durable.core.world import World


def needs(world: World, command: Restart, need: Need) -> None:
    """The invocation, and of its journal what is to be copied."""
    need_id(world, need, command.id)
    old = world.find(command.id)
    if old is not None and command.from_entry:
        need_journal(world, need, old.seq)


def restart(turn: Turn, command: Restart) -> None:
    """The new one has the input, the headers and the retentions of the old one, which stays as it is."""
    old = turn.find(command.id)
    if old is None:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    refused = refusal(old)
    cause = turn.world.unreadable.get(old.seq, "")
    if refused is None and cause:
        refused = Answer.DAMAGED
    rows: Sequence[Row] = ()
    missing: list[int] = []
    if refused is None and command.from_entry:
        rows = prefix(old, journal(turn, old), command.from_entry)
        commands = [row.entry for row in rows if row.entry and row.part == COMMAND]
        missing = open_entries(rows)
        if len(commands) < command.from_entry:
            refused = Answer.OUT_OF_RANGE
        elif missing:
            refused = Answer.OPEN_ENTRY
    if refused is not None:
        entry = missing[0] if refused is Answer.OPEN_ENTRY else 0
        turn.reply(command.token, refused, old, cause=cause, entry=entry)
        return
    if command.dry:
        turn.reply(command.token, Answer.ACCEPTED, old)
        return
    submission = msgspec.structs.replace(
        old.submission,
        id=command.new_id,
        headers=old.submission.headers if command.headers is None else command.headers,
        idempotency_key=None,
        caller=None,
        due_at=None,
        restarted_from=old.id,
        seed=(old.submission.seed or old.run) if rows else None,
        origin=old.submission.origin or old.id,
    )
    new = turn.create(submission, Status.PENDING)
    new.last_entry = command.from_entry
    new.cancels = sum(row.entry == 0 for row in rows)
    turn.writes.journal += [row._replace(invocation=new.seq) for row in rows]
    if turn.enqueue(new):
        turn.start(new)
    turn.reply(command.token, Answer.ACCEPTED, new)


def refusal(old: Invocation) -> Answer | Status | None:
    """Why it cannot be restarted, or None."""
    if old.damaged:
        return Answer.DAMAGED
    if old.status is not Status.COMPLETED:
        return old.status
    if old.submission.flavor in (Flavor.WORKFLOW, Flavor.WORKFLOW_SHARED):
        return Answer.WORKFLOW
    return None if old.journal_kept else Answer.JOURNAL_GONE


def journal(turn: Turn, old: Invocation) -> list[Row]:
    """What is stored of its journal, and what this turn is about to write."""
    stored = turn.world.journals[old.seq]
    new = [row for row in turn.writes.journal if row.invocation == old.seq]
    return list({(row.entry, row.part): row for row in (*stored, *new)}.values())


def prefix(old: Invocation, rows: Sequence[Row], last: int) -> list[Row]:
    """Entries 1 to `last` with their outcomes, and the cancels that had been seen when the last was asked for."""
    arrivals = sorted((row for row in rows if row.ordinal is not None), key=lambda row: row.ordinal or 0)
    seen = max((row.seen for row in rows if row.entry == last and row.part == COMMAND), default=0)
    cancels = [row for row in arrivals[:seen] if row.entry == 0]
    kept = [_with_id(old, row) for row in rows if 0 < row.entry <= last]
    return [*cancels, *kept]


def _with_id(old: Invocation, row: Row) -> Row:
    """An awakeable keeps the id that the handler may have passed on."""
    if row.kind != Kind.AWAKEABLE or row.part != COMMAND or row.detail:
        return row
    return row._replace(detail=awakeable_id(old.id, row.entry, old.run_number))


def open_entries(rows: Sequence[Row]) -> list[int]:
    """Entries that should have an outcome and have none: they cannot be kept."""
    asked = {row.entry for row in rows if row.part == COMMAND and row.ok is None and row.kind not in DETACHED}
    ended = {row.entry for row in rows if row.part != COMMAND and row.ordinal is not None}
    cancelled = min((row.ordinal or 0 for row in rows if row.entry == 0), default=sys.maxsize)
    given_up = {row.entry for row in rows if _by_a_cancel(row) and (row.ordinal or 0) < cancelled}
    return sorted((asked - ended | given_up) - {0})


def _by_a_cancel(row: Row) -> bool:
    """Whether its outcome is that of a cancel: without that one it means nothing."""
    return given_up(row.value) or (row.kind == Kind.RUN and row.value == CANCELLED.value)
