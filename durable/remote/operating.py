"""A client's half for invocations that exist: their ends, what operators do to them, what is seen of them."""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from durable.api import Wanted
from durable.client import Applied, Handle
from durable.core.duration import parse, render
from durable.core.ids import is_invocation_id
from durable.core.journal import Failure, Outcome, failure_of
from durable.core.once import OF_CLIENT
from durable.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OutputNotReadyError,
    TerminalError,
    UnsupportedError,
)
from durable.outcomes import outcome_of
from durable.remote import envelope
from durable.remote.asking import Asking, read
from durable.remote.connections import Answer, Headers
from durable.remote.envelope import REJECTED, REQUEST, Envelope
from durable.remote.wire import check, encoded_path, error_in, problem_in
from durable.runtime.deadlocks import Deadlock
from durable.runtime.registry import check_idempotency_key, check_text
from durable.serde import ANY, ANY_READER, BYTES_MARK, Serde, encoded, unmarked
from durable.service import Configuration
from durable.store.filter import cursor_at
from durable.store.paths import database_path
from durable.views import moments
from durable.views.invocations import InvocationPage, InvocationView, JournalPage
from durable.views.state import StateView

if TYPE_CHECKING:
    from durable.views.services import ServiceView

_BYTES = "application/octet-stream"
_VALUE_SIZE_MAX = 2**30
#: How many invocations a page of the admin API has at most.
_PAGE_MAX = 1000


class Operating(Asking):
    """What exists already."""

    # ---- how invocations end ----

    async def outcome(self, id: str) -> Outcome:
        """Wait for an invocation's end, however often the connection breaks. Raises `NotFoundError`."""
        return self._outcome(await self._invoke("GET", f"/restate/attach/{checked(id)}"))

    async def outcome_now(self, id: str) -> Outcome | None:
        """How it ended, if it has. Raises `NotFoundError`."""
        answer = await self._invoke("GET", f"/restate/output/{checked(id)}")
        return None if answer.status == _NOT_READY else self._outcome(answer)

    def _said(self, said: Envelope) -> Headers:
        """What a control socket is told besides."""
        return [(REQUEST, envelope.encode(said))] if self._local else []

    @staticmethod
    def _outcome(answer: Answer) -> Outcome:
        """How an invocation ended. Raises what the answer says where it says something else.

        A result that is no JSON is marked, as bytes are that are stored without an annotation: `decoder` takes the
        mark off.
        """
        if answer.status < 400:
            media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            return Outcome(True, answer.body if media in ("", "application/json") else BYTES_MARK + answer.body)
        if answer.headers.get("x-restate-error-source") != "invocation":
            raise error_in(answer)
        told_of = problem_in(answer)
        if told_of.kind == NotFoundError.__name__:
            raise NotFoundError(told_of.message)
        if told_of.failure is not None:
            return told_of.failure.outcome()
        kind: Any = told_of.kind if told_of.kind in ("cancelled", "killed", "timeout") else "terminal"
        code = told_of.code or answer.status
        return Failure(told_of.message, code, told_of.metadata, kind, told_of.cause).outcome()

    # ---- steering ----

    async def cancel(
        self, id: str, *, kill: bool = False, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Applied:
        """See `Engine.cancel`."""
        return await self._steer(id, "kill" if kill else "cancel", dry_run, idempotency_key)

    async def kill(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.kill`."""
        return await self._steer(id, "kill", dry_run, idempotency_key)

    async def pause(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.pause`."""
        return await self._steer(id, "pause", dry_run, idempotency_key)

    async def resume(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.resume`."""
        return await self._steer(id, "resume", dry_run, idempotency_key)

    async def purge(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """See `Engine.purge`."""
        await self._steer(id, "purge", dry_run, idempotency_key)

    async def purge_journal(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """See `Engine.purge_journal`."""
        await self._steer(id, "purge-journal", dry_run, idempotency_key)

    async def _steer(self, id: str, verb: str, dry_run: bool, idempotency_key: str | None) -> Applied:
        path, query = f"/invocations/{checked(id)}/{verb}", _dry(dry_run)
        answer = await self._operate("PATCH", path, query=query, headers=self._once(idempotency_key))
        if not answer.body:  # of Restate's own server
            return Applied.ACCEPTED if answer.status == _ACCEPTED else Applied.DONE
        return Applied(read(answer, dict[str, str])["outcome"])

    async def resume_all(self, *, reason: str | None = None, service: str | None = None) -> list[str]:
        """See `Engine.resume_all`."""
        answer = await self._operate("POST", "/resume-all", json={"reason": reason, "service": service})
        return list(read(answer, dict[str, list[str]])["invocation_ids"])

    async def restart_as_new(
        self, id: str, *, from_entry: int = 0, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Handle[Any]:
        """See `Engine.restart_as_new`.

        Over a URL, without an idempotency key, it raises `OutcomeUnknownError` where the connection breaks meanwhile.
        """
        path, query = f"/invocations/{checked(id)}/restart-as-new", {"from": str(from_entry), **_dry(dry_run)}
        said, safe = self._once(idempotency_key), self._safe(idempotency_key)
        answer = await self._operate("PATCH", path, query=query, headers=said, safe=safe)
        return Handle(self, read(answer, dict[str, str])["new_invocation_id"], ANY.decode)

    # ---- completing from outside ----

    async def resolve_awakeable(self, id: str, value: Any = None, *, idempotency_key: str | None = None) -> Applied:
        """See `Engine.resolve_awakeable`. Restate's own ingress does not say that it is too late: it is `DONE`."""
        path, door = ("awakeables", _awakeable(id)), "the value of an awakeable"
        return await self._completed(idempotency_key, lambda key: self._resolve(path, value, door, key))

    async def reject_awakeable(
        self, id: str, message: str, code: int = 500, *, idempotency_key: str | None = None
    ) -> Applied:
        """See `Engine.reject_awakeable`. Restate's own ingress knows no `code`: there it is 500."""
        path = ("awakeables", _awakeable(id))
        return await self._completed(idempotency_key, lambda key: self._reject(path, message, code, key))

    async def send_signal(
        self, id: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> Applied:
        """See `Engine.send_signal`."""
        check_text("signal's name", name)
        path, door = ("signals", checked(id), name), f"the value of signal {name!r}"
        return await self._completed(idempotency_key, lambda key: self._resolve(path, value, door, key))

    async def reject_signal(
        self, id: str, name: str, message: str, code: int = 500, *, idempotency_key: str | None = None
    ) -> Applied:
        """See `Engine.reject_signal`."""
        check_text("signal's name", name)
        path = ("signals", checked(id), name)
        return await self._completed(idempotency_key, lambda key: self._reject(path, message, code, key))

    async def resolve_promise(
        self, workflow: str, key: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> None:
        """See `Engine.resolve_promise`."""
        path, door = ("promises", *_promise(workflow, key, name)), f"the value of promise {name!r}"
        await self._resolve(path, value, door, self._or_own(idempotency_key))

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
        """See `Engine.reject_promise`."""
        path = ("promises", *_promise(workflow, key, name))
        await self._reject(path, message, code, self._or_own(idempotency_key))

    async def _completed(self, idempotency_key: str | None, ask: Callable[[str], Awaitable[None]]) -> Applied:
        """Complete what may be too late: without a key of the caller's, that is no error.

        A key of its own tells it that it has itself completed it, where it asks again.
        """
        try:
            await ask(self._or_own(idempotency_key))
        except ConflictError:
            if idempotency_key is not None:
                raise
            return Applied.UNCHANGED
        return Applied.DONE

    async def _resolve(self, parts: tuple[str, ...], value: Any, door: str, idempotency_key: str | None) -> None:
        data = encoded(ANY_READER, value, door, _VALUE_SIZE_MAX)
        media = "application/json"
        if (raw := unmarked(data)) is not None:
            media, data = _BYTES, data if self._local else raw
        path = encoded_path("restate", *parts, "resolve")
        said = self._keyed(idempotency_key, Envelope(idempotency_key=idempotency_key))
        check(await self._invoke("POST", path, body=data, content_type=media, headers=said))

    async def _reject(self, parts: tuple[str, ...], message: str, code: int, idempotency_key: str | None) -> None:
        failure = failure_of(outcome_of(TerminalError(message, code)))
        path, body = encoded_path("restate", *parts, "reject"), failure.message.encode()
        said = self._keyed(idempotency_key, Envelope(idempotency_key=idempotency_key))
        query = {} if failure.code == REJECTED else {"code": str(failure.code)}
        check(await self._invoke("POST", path, query=query, body=body, content_type="text/plain", headers=said))

    # ---- asking once ----

    def new_key(self) -> str:
        """An idempotency key of its own, for what has none: so it may be asked again where the answer was lost."""
        return OF_CLIENT + self._new_id()

    def _or_own(self, idempotency_key: str | None) -> str:
        return self.new_key() if idempotency_key is None else idempotency_key

    def _once(self, idempotency_key: str | None) -> Headers:
        """What makes the admin API do something once, however often it is asked."""
        key = self._or_own(idempotency_key)
        return self._keyed(key, Envelope(idempotency_key=key))

    def _safe(self, idempotency_key: str | None) -> bool:
        """Whether asking the admin API twice does no harm: Restate's own knows no keys, and may be behind a URL."""
        return self._local or idempotency_key is not None

    def _keyed(self, idempotency_key: str | None, said: Envelope) -> Headers:
        if idempotency_key is None:
            return self._said(said)
        check_idempotency_key(idempotency_key)
        return self._said(said) or [key_header(idempotency_key)]

    # ---- reading ----

    async def invocations(
        self, *, limit: int = 100, before: InvocationView | None = None, **wanted: Unpack[Wanted]
    ) -> list[InvocationView]:
        """See `Engine.invocations`. They are read page by page: what begins or ends meanwhile may show."""
        if before is not None and not isinstance(before, InvocationView):
            raise InvalidRequestError(f"before must be the last invocation of the previous page, not {before!r}")
        cursor = None if before is None else "-".join(map(str, cursor_at(before.created_at, before.seq)))
        found: list[InvocationView] = []
        while True:
            page = await self.page(limit=min(limit - len(found), _PAGE_MAX), cursor=cursor, **wanted)
            found += page.invocations
            cursor = page.next
            if cursor is None or len(found) >= limit:
                return found

    async def page(
        self, *, limit: int = 100, cursor: str | None = None, counts: bool = False, **wanted: Unpack[Wanted]
    ) -> InvocationPage:
        """See `Engine.page`. A page has at most 1,000 invocations."""
        query = {**_filters(wanted), "limit": str(limit)}
        if cursor is not None:
            query["cursor"] = cursor
        if counts:
            query["counts"] = "true"
        page: InvocationPage = read(await self._operate("GET", "/invocations", query=query), InvocationPage)
        return page

    async def count_invocations(self, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """See `Engine.count_invocations`."""
        answer = await self._operate("GET", "/invocation-counts", query=_filters(wanted))
        counts: dict[str, int] = read(answer, dict[str, int])
        return counts

    async def describe(self, id: str) -> InvocationView:
        """See `Engine.describe`."""
        view: InvocationView = read(await self._operate("GET", f"/invocations/{checked(id)}"), InvocationView)
        return view

    async def journal(self, id: str, *, after: int | None = None, limit: int = 1000) -> JournalPage:
        """See `Engine.journal`. A page has at most 10,000 entries."""
        query = {"limit": str(limit), **({} if after is None else {"after": str(after)})}
        page: JournalPage = read(
            await self._operate("GET", f"/invocations/{checked(id)}/journal", query=query), JournalPage
        )
        return page

    async def deadlocks(self) -> list[Deadlock]:
        """See `Engine.deadlocks`."""
        return list(read(await self._operate("GET", "/deadlocks"), list[Deadlock]))

    async def services(self) -> "list[ServiceView]":
        """See `Engine.services`."""
        from durable.views.services import ServiceView

        return list(read(await self._operate("GET", "/services"), list[ServiceView]))

    async def service(self, name: str) -> "ServiceView":
        """See `Engine.service`."""
        from durable.views.services import ServiceView

        view: ServiceView = read(await self._operate("GET", encoded_path("services", name)), ServiceView)
        return view

    async def configure(self, service: str, **options: Unpack[Configuration]) -> None:
        """See `Engine.configure`."""
        change: dict[str, Any] = {"reset": [name for name, value in options.items() if value is None]}
        for name, value in options.items():
            if value is not None:
                change[name] = value if name == "public" else _duration(name, value)
        await self._operate("PATCH", encoded_path("services", service), json=change)

    async def get_state(self, service: str, key: str) -> StateView:
        """See `Engine.get_state`."""
        check_text("key", key)
        answer = await self._operate("GET", encoded_path("services", service, "state"), query={"key": key})
        state = read(answer, _State).state
        values = {name: value for name, value in state.items() if value is not None}
        if len(values) < len(state):
            raise UnsupportedError(
                f"{self._ingress.place} does not show state: its admin API has show_payloads=False"
            )
        return StateView(values)

    async def patch_state(
        self,
        service: str,
        key: str,
        state: Mapping[str, Any],
        *,
        expected_version: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """See `Engine.patch_state`.

        Without an idempotency key it has one of its own.
        """
        values = {
            name: encoded(ANY_READER, value, f"the state value {name!r}", _VALUE_SIZE_MAX)
            for name, value in state.items()
        }
        once = self._or_own(idempotency_key)
        change = {"key": key, "state": values, "version": expected_version, "idempotency_key": once}
        await self._operate("PUT", encoded_path("services", service, "state"), json=change)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """See `Engine.backup`. Over a URL, `path` is a name in the folder that its admin API writes backups to."""
        if not isinstance(path, str | os.PathLike):
            raise InvalidRequestError(f"backup(path) takes the path of a new file, not {path!r}")
        name = database_path(path) if self._local else os.fspath(path)
        await self._operate("POST", "/backup", json={"name": name}, safe=False)


def decoder(serde: Serde[Any]) -> Callable[[bytes], Any]:
    """What reads the value of an outcome."""
    if serde is ANY:
        return serde.decode
    return lambda data: serde.decode(data.removeprefix(BYTES_MARK))


class _State(msgspec.Struct, frozen=True):
    state: dict[str, bytes | None]


_ACCEPTED, _NOT_READY = 202, OutputNotReadyError.code


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dry_run": "true"} if dry_run else {}


def _duration(name: str, value: Any) -> str:
    try:
        return render(parse(value))
    except ValueError as error:
        raise InvalidRequestError(f"configure: {name}: {error}") from None


def key_header(idempotency_key: str) -> tuple[bytes, bytes]:
    """An idempotency key as HTTP has it. Raises `InvalidRequestError`."""
    if not (idempotency_key.isascii() and idempotency_key.isprintable()):
        raise InvalidRequestError("an idempotency key that is sent over HTTP is in printable ASCII")
    return b"idempotency-key", idempotency_key.encode()


def checked(id: str) -> str:
    """The id, if it is one. Raises `InvalidRequestError`."""
    if not isinstance(id, str) or not is_invocation_id(id):
        raise InvalidRequestError(f"{id!r} is not an invocation id (`inv_1` and 33 letters or digits)")
    return id


def _awakeable(id: str) -> str:
    if not isinstance(id, str) or not id.startswith("sign_1"):
        raise InvalidRequestError(f"{id!r} is not an awakeable id: those start with sign_1")
    return id


def _promise(workflow: str, key: str, name: str) -> tuple[str, ...]:
    for what, text in (("workflow", workflow), ("key", key), ("promise's name", name)):
        check_text(what, text)
    return workflow, key, name


def _filters(wanted: Wanted) -> dict[str, str]:
    """The query of the admin API. Raises `InvalidRequestError`."""
    query: dict[str, str] = {}
    for name, value in wanted.items():
        if name not in Wanted.__annotations__:
            known = ", ".join(Wanted.__annotations__)
            raise InvalidRequestError(f"there is no {name!r} to look for; there are {known}")
        if value is None:
            continue
        if name in ("created_after", "created_before"):
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidRequestError(f"{name} must be an integer, not {value!r}")
            query[name] = moments.instant(value)
        elif name == "status" and not isinstance(value, str):
            if not isinstance(value, Iterable):
                raise InvalidRequestError(f"status must be one word or several, not {value!r}")
            query[name] = ",".join(map(str, value))
        else:
            check_text(name, value)  # type: ignore[arg-type]
            query["parent" if name == "caller" else name] = str(value)
    return query
