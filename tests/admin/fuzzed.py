"""Requests that schemathesis makes up from the admin API's OpenAPI document: each alone, and stories along its links.

    python -m tests.admin.fuzzed --examples 1000 --stories 300       # more than the tests make

An engine in memory is asked in process, on virtual time, so that the same seed always tells the same story.
"""

import argparse
import asyncio
import itertools
import logging
import tempfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.stateful import run_state_machine_as_test
from hypothesis.strategies import SearchStrategy
from schemathesis.specs.openapi import checks as openapi

from durable import Engine
from durable.admin import create_app
from durable.admin.app import ROUTES
from durable.admin.openapi import openapi_document
from durable.testing import VirtualLoop
from tests.admin.support import Desk, Served, served, services

if TYPE_CHECKING:
    Case = schemathesis.Case[Any]
else:  # which older versions cannot subscribe
    Case = schemathesis.Case

BASE = "http://localhost:9070"
SETTINGS = settings(
    derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
#: What a schema cannot know: what there is to start, which ends in one status each, and to ask for.
BODIES: dict[str, list[dict[str, Any]]] = {
    "start_invocation": [
        {"target": "Greeter/greet", "input": "you"},
        {"target": "Greeter/wait"},
        {"target": "Greeter/stop"},
        {"target": "Greeter/fail"},
        {"target": "Cart/add", "key": "k", "input": "shoe"},
        {"target": "SignUp/run", "key": "w"},
        {"target": "Greeter/greet", "input": "you", "delay": "1h"},
        {"target": "Greeter/forget", "idempotency_key": "once"},
    ],
    "run_query": [
        {"query": "SELECT * FROM sys_service"},
        {"query": "SELECT * FROM sys_deployment"},
        {"query": "SELECT * FROM sys_invocation"},
        {"query": "SELECT * FROM information_schema.columns"},
        {"query": "SELECT 1.5 AS a, 'b' AS b, x'00ff' AS c, NULL AS d"},
    ],
}
#: What an engine in memory refuses.
IN_A_FILE = {"run_query", "back_up"}
#: Where more can be wrong with a request than a schema says: durations, moments, deployments, SQL, what an input is
#: to its handler, sources and sinks, options of Kafka's clients.
FINICKY = {
    "list_invocations", "start_invocation", "modify_service", "modify_state", "resume_invocation",
    "restart_invocation", "batch_resume", "batch_restart", "run_query", "count_invocations", "resume_all",
    "replace_state", "create_subscription", "create_kafka_cluster", "change_kafka_cluster",
}  # fmt: skip


def is_no_failure(ctx: Any, response: schemathesis.Response, case: Case) -> None:
    """What is 500 or more is announced in the document, and says what to do; 500 itself never is."""
    if response.status_code >= 500:
        assert str(response.status_code) in case.operation.definition.raw["responses"], response.text


def is_accepted(ctx: Any, response: schemathesis.Response, case: Case) -> None:
    """A request that fits the document is understood."""
    if is_positive(case) and name_of(case) not in FINICKY:
        assert response.status_code not in (400, 413, 422, 431), response.text


def is_positive(case: Case) -> bool:
    """Whether it is meant to fit the document."""
    return case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE


def is_refused(ctx: Any, response: schemathesis.Response, case: Case) -> None:
    """A request that does not fit the document is refused; without its header, which may be left out, it fits."""
    components = case.meta.components.items() if case.meta is not None else ()
    wrong = {where.name for where, how in components if how.mode is schemathesis.GenerationMode.NEGATIVE}
    if "idempotency-key" not in {name.lower() for name in response.request.headers}:
        wrong -= {"HEADER"}
    if query_fits(case, str(response.request.url)):
        wrong -= {"QUERY"}
    if wrong:
        openapi.negative_data_rejection(ctx, response, case)


def query_fits(case: Case, url: str) -> bool:
    """Whether a query is right after all: its values are text, and "false" may have been made up as a wrong one.

    What the document does not name is left alone by Restate's operations; our own refuse it.
    """
    kind = next(one.query for one in ROUTES.operations if one.id == name_of(case))
    if kind is None:
        return False
    try:
        msgspec.convert(dict(parse_qsl(urlsplit(url).query, keep_blank_values=True)), kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


CHECKS: list[Any] = [
    is_no_failure,
    is_accepted,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
    is_refused,
]


#: How often an operation gave a status.
Answers = Counter[tuple[str, int]]
#: Picks one of so many, for a request.
Pick = Callable[[Case, int], int]


def in_turn() -> Pick:
    """One after the other, for each operation."""
    turns: dict[str, Iterator[int]] = {}
    return lambda case, count: next(turns.setdefault(name_of(case), itertools.count())) % count


def as_drawn(case: Case, count: int) -> int:
    """By what was made up: told again, a story must take the same course."""
    return zlib.crc32(repr((case.body, case.query)).encode()) % count


class Asked:
    """An engine that is served, on a loop of its own, for those who are not asynchronous.

    In memory and on virtual time; in a folder where there is one, and on real time then.
    """

    def __init__(self, answers: Answers, pick: Pick, folder: Path | None = None) -> None:
        self._answers = answers
        self._pick = pick
        self._accept = itertools.cycle(["application/json", "*/*", "application/x-ndjson"])
        self._loop = VirtualLoop() if folder is None else asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        serving = served() if folder is None else served_from(folder)
        self._http = self._loop.run_until_complete(self._stack.enter_async_context(serving)).http

    def ask(self, case: Case) -> schemathesis.Response:
        """Send it as it would travel; the answer has passed all checks."""
        bodies = BODIES.get(name_of(case))
        if bodies is not None and is_positive(case):
            case.body = bodies[self._pick(case, len(bodies))]
        sent = requests.Request(**case.as_transport_kwargs(base_url=BASE)).prepare()
        headers = [(_bytes(name), _bytes(value)) for name, value in sent.headers.items()]
        headers.append((b"accept", next(self._accept).encode()))
        request = httpx.Request(str(sent.method), str(sent.url), headers=headers, content=_bytes(sent.body or b""))
        answer = self._loop.run_until_complete(self._http.send(request))
        self._answers[name_of(case), answer.status_code] += 1
        response = schemathesis.Response.from_any(answer)
        case.validate_response(response, checks=CHECKS)
        return response

    def close(self) -> None:
        """Close the engine."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()


@asynccontextmanager
async def served_from(folder: Path) -> AsyncIterator[Served]:
    """The same services, in a file."""
    desk = Desk()
    engine = Engine(folder / "app.db", services=services(desk), synchronous="NORMAL")
    transport = httpx.ASGITransport(create_app(engine, backup_folder=folder))
    async with engine, httpx.AsyncClient(transport=transport, base_url=BASE) as http:
        yield Served(engine, desk, http)
        desk.gate.set()


def name_of(case: Case) -> str:
    """The operation that is asked."""
    name: str = case.operation.definition.raw["operationId"]
    return name


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("latin-1")


def document() -> Any:
    """The document as schemathesis reads it."""
    return schemathesis.openapi.from_dict(openapi_document(ROUTES.operations))


def ask_each(examples: int) -> Answers:
    """Ask every operation by itself, with what fits the document and with what does not; returns the answers."""
    answers = Answers()
    for found in document().get_all_operations():
        ask_one(found.ok(), examples, answers)
    return answers


def ask_one(operation: Any, examples: int, answers: Answers) -> None:
    """Ask one operation."""
    with tempfile.TemporaryDirectory() as folder:
        name = operation.definition.raw["operationId"]
        asked = Asked(answers, in_turn(), Path(folder) if name in IN_A_FILE else None)
        try:
            for mode in schemathesis.GenerationMode:
                _ask(asked, operation.as_strategy(generation_mode=mode), examples)
        finally:
            asked.close()


def _ask(asked: Asked, cases: SearchStrategy[Case], examples: int) -> None:
    @settings(SETTINGS, max_examples=examples)
    @given(cases)
    def ask(case: Case) -> None:
        asked.ask(case)

    with suppress(Unsatisfiable):  # nothing could be wrong with it
        ask()


def tell_stories(stories: int, steps: int) -> Answers:
    """Follow links from answer to request; each story has an engine of its own. Returns the answers."""
    answers = Answers()

    class Story(document().as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            self.asked = Asked(answers, as_drawn)

        def call(self, case: Case, **options: Any) -> schemathesis.Response:
            return self.asked.ask(case)

        def validate_response(self, *arguments: Any, **options: Any) -> None:
            """Done."""

        def teardown(self) -> None:
            self.asked.close()

    run_state_machine_as_test(Story, settings=settings(SETTINGS, max_examples=stories, stateful_step_count=steps))
    return answers


def main() -> None:
    """Ask as much as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.admin.fuzzed", description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="requests of each operation, twice")
    parser.add_argument("--stories", type=int, default=300, help="stories along the links")
    parser.add_argument("--steps", type=int, default=20, help="requests in a story, at most")
    options = parser.parse_args()
    logging.getLogger("durable").addHandler(logging.NullHandler())
    for answers in (ask_each(options.examples), tell_stories(options.stories, options.steps)):
        total = Counter({status: 0 for _, status in answers})
        for (_, status), count in answers.items():
            total[status] += count
        print(  # noqa: T201
            f"{sum(total.values())} answers:", dict(sorted(total.items()))
        )


if __name__ == "__main__":
    main()
