"""Asking an engine over HTTP: one in another process, or an app in this one, for files whose service is stopped."""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import unquote, urlencode

import msgspec

from durable.cli.exits import Exit, Failed, unreachable, usage
from durable.errors import EngineUnreachableError, InvalidRequestError, OutcomeUnknownError
from durable.remote import wire
from durable.remote.connections import Answer
from durable.remote.wire import problem_in

#: What a refusal means to whoever typed: other statuses are a failure.
_EXITS = {
    400: Exit.USAGE, 401: Exit.UNREACHABLE, 403: Exit.UNREACHABLE, 404: Exit.NOT_FOUND, 405: Exit.UNREACHABLE,
    421: Exit.UNREACHABLE, 422: Exit.USAGE, 503: Exit.UNREACHABLE,
}  # fmt: skip
Strings = Mapping[str, str]
NONE: Strings = MappingProxyType({})
OnLine = Callable[[bytes], None]


def json_of(answer: Answer) -> Any:
    """The body of an answer that is no refusal. Raises `Failed`, also where it is no JSON: no engine has answered."""
    checked(answer)
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, ValueError):
        raise unreachable(f"what answers is no engine: {answer.body[:60]!r}") from None


def checked(answer: Answer) -> Answer:
    """The same answer, where it is no refusal. Raises `Failed`."""
    if answer.status < 400:
        return answer
    raise Failed(problem_in(answer).message, _EXITS.get(answer.status, Exit.FAILED))


class Session(Protocol):
    """One surface of one engine: its admin API, or its ingress."""

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Strings = NONE,
        body: bytes = b"",
        headers: Strings = NONE,
        on_line: OnLine | None = None,
    ) -> Answer:
        """Raises `Failed` where nobody answers. `on_line` is told each line of an answer below 400, as it comes."""
        ...


class Remote:
    """A `Session` with an engine in another process."""

    def __init__(self, session: wire.Session, prefix: str = "") -> None:
        self._session = session
        self._prefix = prefix

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Strings = NONE,
        body: bytes = b"",
        headers: Strings = NONE,
        on_line: OnLine | None = None,
    ) -> Answer:
        """See `Session`."""
        sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        path = f"{self._prefix}{path}"
        try:
            if on_line is None:
                return await self._session.request(method, path, query=query, body=body, headers=sent)
            received = bytearray()
            async with self._session.stream(method, path, query=query, body=body, headers=sent) as (
                answer,
                next_part,
            ):
                while (part := await next_part()) is not None:
                    received.extend(part)
                    if answer.status < 400:
                        tell_lines(received, on_line)
                return msgspec.structs.replace(answer, body=bytes(received))
        except OutcomeUnknownError as error:
            raise unreachable(str(error)) from None
        except EngineUnreachableError as error:
            raise unreachable(
                f"{error}: start an engine (durable serve module:engine), or say where one is (--db FILE, "
                "--admin URL, --ingress URL)"
            ) from None
        except InvalidRequestError as error:
            raise usage(str(error)) from None


class InProcess:
    """A `Session` with an app in this process."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Strings = NONE,
        body: bytes = b"",
        headers: Strings = NONE,
        on_line: OnLine | None = None,
    ) -> Answer:
        """See `Session`."""
        given = {"host": "localhost", **headers, **({"content-length": str(len(body))} if body else {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": unquote(path), "raw_path": path.encode(), "root_path": "", "server": ("localhost", None),
            "client": None, "query_string": urlencode(query).encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        }  # fmt: skip
        asked, status, told = False, 0, {}
        received = bytearray()
        lines = on_line

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()  # nobody goes away
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, told, lines
            if message["type"] == "http.response.start":
                status = message["status"]
                told = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
                lines = on_line if status < 400 else None
                return
            received.extend(message.get("body", b""))
            if lines is not None:
                tell_lines(received, lines)
            await asyncio.sleep(0)

        await self._app(scope, receive, send)
        return Answer(status, told, bytes(received))


def tell_lines(received: bytearray, on_line: OnLine) -> None:
    """Take the whole lines from what has been received."""
    *whole, rest = received.split(b"\n")
    received[:] = rest
    for one in whole:
        if one:
            on_line(bytes(one))
