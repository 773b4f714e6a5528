"""What schemathesis makes up from each service's OpenAPI document is answered as the document says.

python -m tests.ingress.test_fuzzed 500      # requests of each operation and kind: more than the test makes
"""

import asyncio
import enum
import logging
import sys
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import httpx
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi import checks as openapi

from durable import (
    Context,
    Engine,
    ObjectContext,
    Service,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.testing import MemoryStore, VirtualClock, VirtualLoop
from tests.ingress.support import served

if TYPE_CHECKING:
    Case = schemathesis.Case[Any]
else:  # which older versions cannot subscribe
    Case = schemathesis.Case


#: Older versions of hypothesis say so of their own random numbers.
pytestmark = pytest.mark.filterwarnings("ignore:It looks like `register_random`")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=10)]
    amount: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    color: Color = Color.RED
    tags: list[str] = []


@dataclass
class Point:
    x: float
    y: float | None = None


class Types(Service):
    """Handlers of many types."""

    @handler
    async def text(self, ctx: Context, value: str) -> str:
        return value

    @handler
    async def item(self, ctx: Context, value: Item) -> Item:
        return value

    @handler
    async def point(self, ctx: Context, value: Point) -> Point:
        return value

    @handler
    async def optional(self, ctx: Context, value: Literal["a", "b"] | None) -> str:
        return value or "none"

    @handler
    async def default(self, ctx: Context, value: list[bool] = [True]) -> int:  # noqa: B006 (it is only read)
        return len(value)

    @handler
    async def anything(self, ctx: Context, value: Any) -> Any:
        return value

    @handler
    async def nothing(self, ctx: Context) -> None: ...

    @handler
    async def octets(self, ctx: Context, value: bytes) -> bytes:
        return value

    @handler
    async def day(self, ctx: Context, value: date) -> date:
        return value

    @handler
    async def fails(self, ctx: Context, value: Annotated[int, msgspec.Meta(ge=400, le=599)]) -> None:
        raise TerminalError("no", value, {"key": "value"})

    @handler(public=False)
    async def hidden(self, ctx: Context) -> None: ...


class Keyed(VirtualObject):
    """Handlers that run on keys."""

    @handler
    async def add(self, ctx: ObjectContext, amount: Annotated[int, msgspec.Meta(ge=-9, le=9)]) -> int:
        total = (await ctx.get("total", int) or 0) + amount
        ctx.set("total", total)
        return total


class Once(Workflow):
    """Runs once."""

    @handler
    async def run(self, ctx: WorkflowContext, name: str) -> str:
        await ctx.sleep(timedelta(seconds=1))
        return name


SERVICES = ("Types", "Keyed", "Once")
BASE = "http://localhost:8080"
SETTINGS = settings(
    derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


def is_accepted(ctx: Any, response: schemathesis.Response, case: Case) -> None:
    """A request that fits the document is understood, and one that does not is refused by the ingress."""
    told = response.json() if response.headers.get("content-type") == ["application/json"] else None
    refused = response.status_code >= 400 and isinstance(told, dict) and told.get("source") == "ingress"
    announced = str(response.status_code) in case.operation.definition.raw["responses"]  # 404, 470
    if case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE:
        assert not refused or announced, response.text
    assert response.status_code < 500 or not refused, response.text


def is_refused(ctx: Any, response: schemathesis.Response, case: Case) -> None:
    """A request that does not fit the document is refused; what may be left out fits where it is not there."""
    components = case.meta.components.items() if case.meta is not None else ()
    wrong = {where.name for where, how in components if how.mode is schemathesis.GenerationMode.NEGATIVE}
    if "idempotency-key" not in {name.lower() for name in response.request.headers}:  # nor one that cannot be sent
        wrong -= {"HEADER"}
    if not response.request.body and not case.operation.definition.raw.get("requestBody", {}).get("required"):
        wrong -= {"BODY"}
    if wrong:
        openapi.negative_data_rejection(ctx, response, case)


CHECKS: list[Any] = [
    is_accepted,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
    is_refused,
]
#: How often each operation gave a status.
Answers = Counter[tuple[str, int]]


class Asked:
    """An engine that is served, in memory and on virtual time, for those who are not asynchronous."""

    def __init__(self) -> None:
        self._loop = VirtualLoop()
        self._stack = AsyncExitStack()
        self.answers = Answers()
        asyncio.set_event_loop(self._loop)
        self.http = self._loop.run_until_complete(self._stack.enter_async_context(self._serve())).http

    def _serve(self) -> Any:
        clock = VirtualClock(self._loop)
        return served(engine=Engine(services=[Types(), Keyed(), Once()], store=MemoryStore(), clock=clock))

    def document(self, service: str) -> dict[str, Any]:
        """The document of a service, as the ingress tells it."""
        answer = self._loop.run_until_complete(self.http.get(f"/restate/openapi/{service}"))
        document: dict[str, Any] = answer.raise_for_status().json()
        return document

    def each(self, document: dict[str, Any], examples: int) -> None:
        """Ask every operation, with what fits the document and with what does not."""
        described: Any = schemathesis.openapi.from_dict(document)
        for found in described.get_all_operations():
            name = found.ok().definition.raw["operationId"]
            for mode in schemathesis.GenerationMode:
                if mode is schemathesis.GenerationMode.NEGATIVE and name.endswith("-anything"):
                    continue  # nothing is wrong with it, and it would be told that something is

                @settings(SETTINGS, max_examples=examples)
                @given(found.ok().as_strategy(generation_mode=mode))
                def ask(case: Case) -> None:
                    self._ask(case)

                with suppress(Unsatisfiable):  # nothing could be wrong with it
                    ask()

    def _ask(self, case: Case) -> None:
        asked = case.as_transport_kwargs(base_url=BASE)
        if "json" in asked:
            asked["json"] = whole(asked["json"])
        sent = requests.Request(**asked).prepare()
        headers = [(_bytes(name), _bytes(value)) for name, value in sent.headers.items()]
        request = httpx.Request(str(sent.method), str(sent.url), headers=headers, content=_bytes(sent.body or b""))
        answer = self._loop.run_until_complete(self.http.send(request))
        name = case.operation.definition.raw["operationId"]
        self.answers[name, answer.status_code] += 1
        case.validate_response(schemathesis.Response.from_any(answer), checks=CHECKS)

    def close(self) -> None:
        """Close the engine."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()


def whole(value: Any) -> Any:
    """JSON in which 7.0 is 7: a schema calls both integers, and who reads an int does not."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [whole(one) for one in value]
        case dict():
            return {name: whole(one) for name, one in value.items()}
    return value


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("latin-1")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_answers_as_its_document_says(service: str) -> None:
    asked = Asked()
    try:
        document = asked.document(service)
        found = [path for path, one in document["paths"].items() if "get" in one]
        for path in found[2:]:  # attach and output of one handler are enough here
            del document["paths"][path]
        asked.each(document, 3)
        operations = {one["post"]["operationId"] for one in document["paths"].values() if "post" in one}
        assert "call-hidden" not in operations
        succeeded = {name for (name, status) in asked.answers if status in (200, 202)}
        assert operations - succeeded <= {"call-fails"}
        assert any(status == 400 for _, status in asked.answers)
    finally:
        asked.close()


@pytest.mark.parametrize(
    ("path", "lie"),
    [
        ("/restate/call/Types/text", {"responses": {"200": {"description": ""}}}),
        ("/restate/send/Types/text", {"responses": {"200": {"description": ""}}}),
        (
            "/restate/call/Types/day",
            {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "integer"}}}}},
        ),
        ("/restate/call/Types/nothing", {"requestBody": {"required": True, "content": {"application/json": {}}}}),
    ],
)
def test_a_document_that_lies_is_found(path: str, lie: dict[str, Any]) -> None:
    """R-44."""
    asked = Asked()
    try:
        truth = asked.document("Types")
        truth["paths"] = {path: {"post": truth["paths"][path]["post"] | lie}}
        with pytest.raises(BaseExceptionGroup):
            asked.each(truth, 3)
    finally:
        asked.close()


if __name__ == "__main__":
    logging.getLogger("durable").addHandler(logging.NullHandler())
    many = Asked()
    for name in SERVICES:
        many.each(many.document(name), int(sys.argv[1]))
    print(sum(many.answers.values()), dict(Counter(status for _, status in many.answers.elements())))  # noqa: T201
    many.close()
