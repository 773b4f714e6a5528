"""What an operator, or anybody outside, does to invocations that exist."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from durable.client import Applied, Handle
from durable.core import commands as ask
from durable.core.effects import Answer, Reply
from durable.core.ids import parse_awakeable_id
from durable.core.invocation import Flavor, Status, Submission
from durable.core.journal import Outcome
from durable.core.once import Once
from durable.core.sealed import Why
from durable.engine.access import check_number, check_reason, checked, restore_hint
from durable.engine.state import KeyState
from durable.errors import (
    ConflictError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    StorageCorruptError,
    TerminalError,
    TooEarlyError,
    UnsupportedError,
)
from durable.outcomes import outcome_of
from durable.runtime.once import asked_once, told_again, told_once
from durable.runtime.registry import check_text
from durable.serde import serde_for
from durable.store.filter import Cursor, Filter

#: How many invocations one turn of `resume_all` takes.
RESUME_BATCH = 100


class Control(KeyState):
    """Cancel, kill, pause, resume, restart, purge; awakeables, signals and promises completed from outside.

    With `dry_run=True`, the first six change nothing; they only return, or raise, what they otherwise would.

    Each takes an idempotency key, for a caller that may have to ask again because the answer was lost. A request that
    is repeated with the same key is not carried out again, and gets the same answer. An error is not kept, because
    nothing was done. The key belongs to this kind of request to this invocation, awakeable, promise or signal, and is
    known as long as that is; if that is gone (purged), for a day. If the same key comes with something else, the
    handler's `on_key_reuse` decides: the first answer and a warning in the log, or a `ConflictError`.
    """

    async def cancel(
        self, id: str, *, kill: bool = False, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Applied:
        """Ask an invocation to stop: its handler sees one `InvocationCancelled`, and can compensate.

        The calls it made are cancelled first, and end before its handler sees the cancel; what it sent runs on.
        Returns when the cancel is durable: `ACCEPTED`, or `DONE` if it had not begun and so has already ended.

        What follows `ACCEPTED` is up to the handler: it can let the cancel end it (409), catch it and return, end
        with another error, or have ended by itself. `await handle.result()` tells which. This takes as long as its
        running steps, its calls and its compensations take. A paused invocation is started once more to see the
        cancel; if its code cannot run, it is paused again and the cancel is kept (see `advice`). A second cancel
        interrupts again, unless it has the idempotency key of the first. For `kill=True` see `kill`. Raises
        `NotFoundError`; `ConflictError` if it is completed.
        """
        if kill:
            return await self.kill(id, dry_run=dry_run, idempotency_key=idempotency_key)
        key = None if dry_run else asked_once(idempotency_key)
        reply = await self._ask(lambda token: ask.Cancel(checked(id), token, dry_run, key), id)
        _refuse_completed(id, reply.result)
        return Applied.DONE if reply.result is Answer.DONE else Applied.ACCEPTED

    async def kill(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """End an invocation now, with every call it waits for, without running any more of their code.

        Nothing is compensated, state that was set stays, the key is free, what was sent runs on. Callers get
        `InvocationKilled` (409). Raises `NotFoundError`; `ConflictError` if it is completed.
        """
        key = None if dry_run else asked_once(idempotency_key)
        reply = await self._ask(lambda token: ask.Kill(checked(id), token, dry_run, key), id)
        _refuse_completed(id, reply.result)
        return Applied.DONE

    async def pause(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """Let running steps end and be recorded; then nothing happens until it is resumed or cancelled.

        What arrives meanwhile (results, signals, due timers) is stored. Returns `ACCEPTED`, or `UNCHANGED` if it is
        already paused. Raises `NotFoundError`; `ConflictError` if it has not begun or is completed.
        """
        key = None if dry_run else asked_once(idempotency_key)
        reply = await self._ask(lambda token: ask.Pause(checked(id), token, dry_run, key), id)
        if reply.result in (Status.SCHEDULED, Status.PENDING, Status.COMPLETED):
            raise ConflictError(f"cannot pause {id}: it is {reply.result}")
        return Applied.UNCHANGED if reply.result is Status.PAUSED else Applied.ACCEPTED

    async def resume(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """Start a paused invocation again with a fresh retry budget; or retry at once one that is backing off.

        Returns `DONE`, or `UNCHANGED` if it is already running. Raises `NotFoundError`; `TooEarlyError` (425) if it
        is scheduled or waits for its key; `ConflictError` if it is completed.
        """
        key = None if dry_run else asked_once(idempotency_key)
        reply = await self._ask(lambda token: ask.Resume(checked(id), token, dry_run, key), id)
        if reply.result in (Status.SCHEDULED, Status.PENDING):
            raise TooEarlyError(f"cannot resume {id}: it is {reply.result}, its turn has not come")
        _refuse_completed(id, reply.result)
        return Applied.UNCHANGED if reply.result in (Status.RUNNING, Status.READY) else Applied.DONE

    async def resume_all(self, *, reason: str | None = None, service: str | None = None) -> list[str]:
        """Resume every paused invocation, or those of one service, or those paused for one reason. Returns their ids.

        `reason` is one of those that pause at once: "result-not-storable", "value-not-storable",
        "input-not-readable", "value-not-readable", "value-too-large", "handler-gone", "journal-mismatch", "misuse",
        "commit-refused", "damaged", "reads-damaged". Without a reason, all are resumed, including those that ran out
        of attempts or that an operator has paused. An invocation that cannot be resumed (its row is damaged) is left
        out, and one that is paused while this runs may be. Raises `InvalidRequestError`.
        """
        check_reason(reason)
        if service is not None:
            check_text("service", service)
        resumed: list[str] = []
        before: Cursor | None = None
        while True:
            where = Filter(
                service=service, status=frozenset({Status.PAUSED}), reason=reason, limit=RESUME_BATCH, before=before
            )
            page = await self._running().store.find(where)
            wanted = [one.id for one in page.found if reason is None or not one.pausing]
            replies = await asyncio.gather(*(self._running().ask(partial(ask.Resume, id)) for id in wanted))
            resumed += [reply.id for reply in replies if reply.result is Status.PAUSED]
            if page.next is None:
                return resumed
            before = page.next

    async def restart_as_new(
        self, id: str, *, from_entry: int = 0, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Handle[Any]:
        """Run a completed invocation again, as a new one with the same input and headers. The old one stays as it is.

        `from_entry=n` keeps the first n entries of its journal with their outcomes: they are replayed, not executed,
        and random numbers repeat. A second call starts a second one, unless it has the idempotency key of the
        first. (A dry run returns the old one.) Raises `NotFoundError`; `ConflictError` (409) if it is not completed;
        `TooEarlyError` (425) if it has not begun; `UnsupportedError` (422) for a workflow; `GoneError` (410) if its
        journal is gone; `InvalidRequestError` (400) if it does not have that entry, or if one of the entries to keep
        has no outcome.
        """
        check_number("from_entry", from_entry, 0)
        new_id = self._new_id(self._clock.now_ms())
        new = None if dry_run else await self._told_of_new(checked(id), new_id)
        headers = None if new is None else new.headers
        key = None if dry_run else asked_once(idempotency_key, b"%d" % from_entry)
        reply = await self._ask(
            lambda token: ask.Restart(checked(id), new_id, from_entry, token, dry_run, headers, key), id
        )
        if reply.result is not Answer.ACCEPTED:
            raise _not_restarted(id, from_entry, reply)
        if new is not None and reply.id != new_id and (observer := self._running().observer) is not None:
            observer.invocation_dismissed(new)
        self._told_again(reply, key, f"restart {id}")
        return Handle(self, reply.id, serde_for(Any).decode)

    async def _told_of_new(self, id: str, new_id: str) -> Submission | None:
        """Tell the observer of the one that is to be made; it may add headers. None if there is no observer."""
        observer = self._running().observer
        if observer is None:
            return None
        with suppress(NotFoundError, StorageCorruptError):  # the restart says so
            old, _ = await self._read_one(self._running(), id, limit=1)
            headers = dict(old.submission.headers)
            new = msgspec.structs.replace(old.submission, id=new_id, headers=headers, restarted_from=id, caller=None)
            observer.invocation_asked(new)
            return new
        return None

    async def purge(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """Forget a completed invocation: its result, its journal, its idempotency key.

        For a workflow's run, the workflow's state and promises go with it; an object's state stays. Raises
        `NotFoundError`; `ConflictError` if it is not completed.
        """
        await self._purge(id, journal_only=False, dry_run=dry_run, idempotency_key=idempotency_key)

    async def purge_journal(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """Forget only the journal of a completed invocation: its result stays, but it can no longer be restarted.

        Raises the same errors as `purge`.
        """
        await self._purge(id, journal_only=True, dry_run=dry_run, idempotency_key=idempotency_key)

    async def _purge(self, id: str, *, journal_only: bool, dry_run: bool, idempotency_key: str | None) -> None:
        key = None if dry_run else asked_once(idempotency_key)
        reply = await self._ask(lambda token: ask.Purge(checked(id), journal_only, token, dry_run, key), id)
        if reply.result is not Answer.DONE:
            raise ConflictError(
                f"cannot purge {id}: it is {reply.result}, not yet completed; cancel or kill it first"
            )

    # ---- completing from outside ----

    # What does not exist is a `NotFoundError`. What comes too late changes nothing: an awakeable that was completed
    # before, an invocation that has ended, a promise that was settled before. For a promise, whose first value counts
    # for everybody, that is a `ConflictError`; for the others it is `Applied.UNCHANGED`, or, for whoever gives an
    # idempotency key to know that theirs has taken effect, a `ConflictError`, too.

    async def resolve_awakeable(self, id: str, value: Any = None, *, idempotency_key: str | None = None) -> Applied:
        """Complete an awakeable: the handler that waits for it goes on.

        Returns `DONE`; or `UNCHANGED` if it is too late, because it was completed before, or its invocation ended
        without it. With an idempotency key, that is a `ConflictError` instead, so a return means that the awakeable
        has this value. Raises `InvalidRequestError` if the id is malformed, `NotFoundError` if there is no such
        invocation.
        """
        outcome = Outcome(True, self._encode(value, "the value of an awakeable"))
        return await self._complete_awakeable(id, outcome, told_once(idempotency_key, outcome, value))

    async def reject_awakeable(
        self, id: str, message: str, code: int = 500, *, idempotency_key: str | None = None
    ) -> Applied:
        """Complete an awakeable with a `TerminalError`. Otherwise like `resolve_awakeable`."""
        outcome = outcome_of(TerminalError(message, code))
        return await self._complete_awakeable(id, outcome, told_once(idempotency_key, outcome))

    async def _complete_awakeable(self, id: str, outcome: Outcome, once: Once | None = None) -> Applied:
        parsed = parse_awakeable_id(id) if isinstance(id, str) else None
        if parsed is None:
            raise InvalidRequestError(f"{id!r} is not an awakeable id: those start with sign_1")
        invocation, entry, run = parsed
        reply = await self._ask(lambda token: ask.CompleteEntry(invocation, entry, outcome, token, run, once), id)
        if reply.result is Answer.CONFLICT:
            raise ConflictError(
                f"the awakeable {id} was already completed, or its invocation has ended without it: this value is "
                "not what its handler got"
            )
        self._told_again(reply, once, f"complete the awakeable {id}")
        return Applied.UNCHANGED if reply.result is Answer.UNCHANGED else Applied.DONE

    async def send_signal(
        self, id: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> Applied:
        """Send a named signal to an invocation, which may wait for it now or later.

        Each call sends one more, unless it has the idempotency key of an earlier one. Returns `DONE`; or `UNCHANGED`
        if the invocation has ended, so that nobody will see it. With an idempotency key, that is a `ConflictError`
        instead. Raises `NotFoundError`.
        """
        outcome = Outcome(True, self._encode(value, f"the value of signal {name!r}"))
        return await self._signal(id, name, outcome, told_once(idempotency_key, outcome, value))

    async def reject_signal(
        self, id: str, name: str, message: str, code: int = 500, *, idempotency_key: str | None = None
    ) -> Applied:
        """Send a failure as a named signal: the handler that waits for it gets a `TerminalError`.

        Otherwise like `send_signal`.
        """
        outcome = outcome_of(TerminalError(message, code))
        return await self._signal(id, name, outcome, told_once(idempotency_key, outcome))

    async def _signal(self, id: str, name: str, outcome: Outcome, once: Once | None = None) -> Applied:
        check_text("signal's name", name)
        reply = await self._ask(lambda token: ask.SendSignal(checked(id), name, outcome, token, once), id)
        if reply.result is Answer.CONFLICT:
            raise ConflictError(f"{id} has ended, so nobody would see the signal {name!r}")
        self._told_again(reply, once, f"send the signal {name!r} to {id}")
        return Applied.UNCHANGED if reply.result is Answer.UNCHANGED else Applied.DONE

    async def resolve_promise(
        self, workflow: str, key: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> None:
        """Settle a workflow's promise; the workflow may be started later. Raises `NotFoundError`.

        Raises `ConflictError` if it was settled before; with an idempotency key, only if that was somebody else.
        """
        outcome = Outcome(True, self._encode(value, f"the value of promise {name!r}"))
        await self._settle_promise(workflow, key, name, outcome, told_once(idempotency_key, outcome, value))

    async def reject_promise(
        self,
        workflow: str,
        key: str,
        name: str,
        message: str,
        code: int = 500,
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """Settle a workflow's promise with a `TerminalError`. Otherwise like `resolve_promise`."""
        outcome = outcome_of(TerminalError(message, code))
        await self._settle_promise(workflow, key, name, outcome, told_once(idempotency_key, outcome))

    async def _settle_promise(
        self, workflow: str, key: str, name: str, outcome: Outcome, once: Once | None = None
    ) -> None:
        self._running()
        await self._check_workflow(workflow, key)
        check_text("promise's name", name)
        reply = await self._ask(lambda token: ask.SettlePromise(workflow, key, name, outcome, token, once))
        if reply.result is Answer.CONFLICT:
            raise ConflictError(f"the promise {name!r} of {workflow}/{key} was already completed")
        if reply.result is Answer.DAMAGED:
            if isinstance(reply.cause, Why):
                raise reply.cause.error()
            raise StorageCorruptError(f"{reply.cause}. {restore_hint(self._store)}")
        self._told_again(reply, once, f"settle the promise {name!r} of {workflow}/{key}", (workflow, "run"))

    async def _check_workflow(self, workflow: str, key: str) -> None:
        """Whether its promises can be settled. Raises `NotFoundError`, `InvalidRequestError`."""
        if not self._registry.has(workflow, Flavor.WORKFLOW):
            raise NotFoundError(f"this engine has no workflow {workflow}")
        check_text("key", key)

    def _told_again(self, reply: Reply, once: Once | None, what: str, handler: tuple[str, str] = ("", "")) -> None:
        told_again(reply, once, what, self._registry, handler)


def _refuse_completed(id: str, result: Answer | Status) -> None:
    if result is Status.COMPLETED:
        raise ConflictError(f"the invocation {id} was already completed")


def _not_restarted(id: str, from_entry: int, reply: Reply) -> Exception:
    match reply.result:
        case Status.SCHEDULED | Status.PENDING:
            return TooEarlyError(f"cannot restart {id}: it is {reply.result}, its turn has not come")
        case Answer.WORKFLOW:
            return UnsupportedError(
                f"cannot restart {id}: it belongs to a workflow, which runs once per key; start it with another key"
            )
        case Answer.JOURNAL_GONE:
            return GoneError(
                f"cannot restart {id}: its journal is gone; raise journal_retention to restart such invocations"
            )
        case Answer.OUT_OF_RANGE:
            return InvalidRequestError(f"from_entry: the journal of {id} has no entry {from_entry}")
        case Answer.OPEN_ENTRY:
            return InvalidRequestError(
                f"from_entry: entry {reply.entry} of {id} has no outcome; restart from an entry before it, below "
                f"{reply.entry}"
            )
    return ConflictError(f"cannot restart {id}: it is {reply.result}; cancel or kill it first")
