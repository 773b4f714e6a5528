"""Calls and sends over HTTP: values, errors, headers, keys, delays, idempotency."""

import asyncio
import json
import os
from typing import Annotated, Any
from urllib.parse import quote, unquote

import pytest

from durable import Context, Engine, Serde, SerializationError, handler
from durable.testing import MemoryStore, VirtualClock, run
from tests.ingress.services import SERVICES, Cart, SignUp
from tests.ingress.support import JSON, Asked, Served, served, story


def test_both_families_of_paths_call_and_send() -> None:
    async def tell(ingress: Served) -> None:
        for path in ("/Echo/greet", "/restate/call/Echo/greet", "/Echo/greet/"):
            answer = await ingress.post(path, "you")
            assert (answer.status_code, answer.content) == (200, b'"Hello, you!"')
            assert answer.headers["content-type"] == "application/json"
            id = answer.headers["x-restate-id"]
            assert (await ingress.engine.describe(id)).completion_result == "success"
            assert "idempotency-expires" not in answer.headers
        for path in ("/Cart/k/add/send", "/restate/send/Cart/k/add"):
            answer = await ingress.post(path, 1)
            assert answer.status_code == 202
            id = answer.headers["x-restate-id"]
            assert answer.json() == {"invocationId": id, "status": "Accepted"}
            await ingress.engine.attach(id)
        assert (await ingress.post("/Cart/k/add", 1)).json() == 3
        assert (await ingress.get("/Echo/count")).json() == 7, "GET, where there is no input"

    story(tell)


def test_bytes_travel_as_they_are() -> None:
    """C-006."""

    async def tell(ingress: Served) -> None:
        octets = {"content-type": "application/octet-stream"}
        data = b"\0\xff" + os.urandom(98)
        answer = await ingress.http.post("/Echo/raw", content=data, headers=octets)
        assert (answer.content, answer.headers["content-type"]) == (data, octets["content-type"])
        answer = await ingress.http.post("/Echo/raw")
        assert (answer.status_code, answer.content) == (200, b"")
        refused = await ingress.http.post("/Echo/raw", content=data, headers=JSON)
        assert (refused.status_code, refused.headers["x-restate-error-source"]) == (400, "ingress")
        answer = await ingress.http.post("/Echo/nothing")
        assert (answer.status_code, answer.content, "content-type" in answer.headers) == (200, b"", False)

    story(tell)


def test_a_failure_arrives_with_code_message_and_metadata() -> None:
    """C-031."""

    async def tell(ingress: Served) -> None:
        answer = await ingress.post("/Echo/refuse")
        assert answer.status_code == 400
        assert answer.json() == {
            "code": 400, "message": "refused", "source": "invocation", "metadata": {"key1": "a", "key2": "b"},
        }  # fmt: skip
        assert answer.headers["x-restate-error-source"] == "invocation"
        assert answer.headers["x-restate-id"].startswith("inv_1")
        for code, status in ((418, 418), (404, 404), (599, 599), (400, 400)):
            answer = await ingress.post("/Echo/fail", code)
            assert (answer.status_code, answer.json()["code"]) == (status, code), "never as a success"

    story(tell)


def test_a_private_service_is_for_other_handlers_until_it_is_made_public() -> None:
    """C-033."""

    async def tell(ingress: Served) -> None:
        for path in ("/Hidden/secret", "/restate/send/Hidden/secret"):
            for body in (None, "what it does not take"):
                told = (await ingress.post(path, body)).json()
                assert told == {"code": 400, "message": "the invoked service is not public", "source": "ingress"}
        assert "Hidden" in (await ingress.get("/restate/health")).json()["services"]
        await ingress.engine.configure("Echo", public=False)
        assert (await ingress.post("/Echo/count")).status_code == 400
        await ingress.engine.configure("Echo", public=None)
        assert (await ingress.post("/Echo/count")).json() == 7

    story(tell)


CONTENT_TYPES: list[tuple[str, dict[str, str], bytes, int, str]] = [
    ("greet", JSON, b'"x"', 200, ""),
    ("greet", {"content-type": "application/json; charset=utf-8"}, b'"x"', 200, ""),
    ("greet", {"content-type": "Application/JSON"}, b'"x"', 200, ""),
    ("greet", {}, b'"x"', 400, "Empty content-type"),
    ("greet", {"content-type": "text/plain"}, b'"x"', 400, "'text/plain' does not match 'application/json'"),
    ("greet", {"content-type": "application/*"}, b'"x"', 400, "does not match"),
    ("greet", JSON, b"", 400, "Empty body not allowed"),
    ("greet", {}, b"", 400, "Empty body not allowed"),
    ("greet", JSON, b"not json", 400, "cannot read"),
    ("greet", JSON, b"1", 400, "Expected `str`, got `int`"),
    ("greet", JSON, b'"\xff"', 400, "cannot read"),
    ("greet", JSON, b"[" * 500 + b"]" * 500, 400, "nested deeper"),
    ("nothing", {}, b"", 200, ""),
    ("nothing", JSON, b"", 400, "Expected body and content-type to be empty"),
    ("nothing", {}, b"null", 400, "Expected body and content-type to be empty"),
    ("nothing", JSON, b"null", 400, "Expected body and content-type to be empty"),
]


def test_a_body_has_to_be_what_the_handler_takes() -> None:
    """C-085: refused at the door, with nothing accepted."""

    async def tell(ingress: Served) -> None:
        for name, headers, body, status, message in CONTENT_TYPES:
            before = await ingress.engine.count_invocations()
            answer = await ingress.http.post(f"/Echo/{name}", headers=headers, content=body)
            assert (answer.status_code, message in answer.text) == (status, True), (name, headers, body, answer.text)
            if status == 400:
                assert answer.json()["source"] == answer.headers["x-restate-error-source"] == "ingress"
                assert await ingress.engine.count_invocations() == before

    story(tell)


def _fails(data: bytes) -> str:
    raise SerializationError("no good") if data == b"bad" else RuntimeError("a bug")


def test_what_may_be_left_out_may_be_left_out() -> None:
    @handler(service="Takes")
    async def default(ctx: Context, name: str = "you") -> str:
        return name

    @handler(service="Takes")
    async def optional(ctx: Context, name: str | None) -> str | None:
        return name

    @handler(service="Takes")
    async def anything(ctx: Context, value: Any) -> Any:
        return b"\0bytes" if value == "bytes" else value

    @handler(service="Takes")
    async def custom(ctx: Context, value: Annotated[str, Serde(str.encode, _fails, "text/fails")]) -> None: ...

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        engine = Engine(services=[default, optional, anything, custom], store=MemoryStore(), clock=clock)
        async with served(engine=engine) as ingress:
            assert (await ingress.post("/Takes/default")).json() == "you"
            assert (await ingress.post("/Takes/default", "me")).json() == "me"
            assert (await ingress.post("/Takes/optional")).json() is None
            assert (await ingress.post("/Takes/anything")).json() is None
            assert (await ingress.post("/Takes/anything", {"a": [1]})).json() == {"a": [1]}
            answer = await ingress.post("/Takes/anything", "bytes")
            assert (answer.content, answer.headers["content-type"]) == (b"\0bytes", "application/octet-stream")
            assert (await ingress.http.post("/Takes/anything", content=b"\0a", headers=JSON)).status_code == 400
            fails = {"content-type": "text/fails"}
            for body, message in ((b"bad", "no good"), (b"bug", "serializer failed")):
                answer = await ingress.http.post("/Takes/custom", content=body, headers=fails)
                assert (answer.status_code, message in answer.text) == (400, True), answer.text

    run(main)


def test_the_handler_sees_the_headers_that_are_meant_for_it() -> None:
    """C-030; `traceparent` is kept for whoever traces."""

    async def tell(ingress: Served) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        sent = [
            ("x-my-custom-header", "a"), ("traceparent", trace), ("x-two", "a"), ("x-two", "b"), ("cookie", "a=b"),
            ("cookie", "c=d"), ("authorization", "Bearer x"), ("idempotency-key", "k"), ("idempotency-expires", "x"),
        ]  # fmt: skip
        answer = await ingress.http.post("/Echo/headers?x=%20&x=1", headers=sent)
        seen = answer.json()
        assert seen["x-my-custom-header"] == "a" and seen["traceparent"] == trace
        assert (seen["x-two"], seen["cookie"], seen["authorization"]) == ("a, b", "a=b; c=d", "Bearer x")
        assert seen["x-restate-ingress-path"] == "/Echo/headers?x=%20&x=1"
        assert not {"host", "connection", "idempotency-key", "idempotency-expires"} & seen.keys()

    async def withheld(ingress: Served) -> None:
        sent = {"authorization": "Bearer s3cret", "x-secret": "s", "x-open": "o"}
        seen = (await ingress.http.post("/Echo/headers", headers=sent)).json()
        assert "authorization" not in seen and "x-secret" not in seen and seen["x-open"] == "o"

    story(tell)
    story(withheld, token="s3cret", withheld_headers=["X-Secret"])


# ---- keys ----

KEYS = [
    "a/b", "/", "//", " ", "a b", "\u20ac", "\U0001f600", "%", "%2F", "a+b", "..", ".", "a?b#c", ";,:@&=$!*'()", "\n",
    "\x1b[2J", "k" * 60_000, "\u20ac" * 20_000, "restate", "send",
]  # fmt: skip


def quoted(key: str) -> str:
    return "".join(f"%{byte:02X}" for byte in key.encode())


def test_keys_round_trip_or_are_refused_by_name() -> None:
    async def tell(ingress: Served) -> None:
        async def ask(encoded: str) -> tuple[int | None, Any]:
            raw = f"/restate/call/Cart/{encoded}/key"
            asked = await Asked(unquote(raw), raw_path=raw.encode()).part().of(ingress.app)
            return asked.status, json.loads(asked.body)

        for key in KEYS:
            for encoded in (quoted(key), quote(key, safe="")):
                assert await ask(encoded) == (200, key), key[:20]
        for encoded, status, message in (
            (quoted("k" * 65_537), 400, "the key has 65537 bytes; at most 65536"),
            ("k" * 200_000, 400, "the key has 200000 bytes; at most 65536"),
            ("k" * 300_000, 414, "path and query have 300023 bytes"),
            ("%00", 400, "NUL"),
            ("%ff", 400, "no valid UTF-8"),
        ):
            answer = await ask(encoded)
            assert (answer[0], message in answer[1]["message"]) == (status, True), str(answer)[:200]

    story(tell)


# ---- delays ----


def test_a_send_may_be_delayed() -> None:
    """C-086."""

    async def tell(ingress: Served) -> None:
        now = ingress.engine.now_ms()
        for number, (delay, seconds) in enumerate({
            "10s": 10, "1 hour, 30 minutes": 5400, "PT0.5S": 0.5, "01:30:00": 5400, "1d 12h": 129_600,
        }.items()):  # fmt: skip
            for name in ("delay", "DELAY"):
                path = f"/restate/send/Cart/{number}{name}/add"
                answer = await ingress.http.post(path, params={name: delay}, json=1)
                told = answer.json()
                view = await ingress.engine.describe(told["invocationId"])
                assert view.due_at is not None and 0 <= view.due_at - now - seconds * 1000 < 1000
                assert told["executionTime"].endswith("Z") and told["status"] == "Accepted"
        answer = await ingress.http.post("/Cart/far/add/send", params={"delay": "7304484d"}, json=1)
        assert answer.json()["executionTime"].startswith("+2"), "a year of five digits"
        for query, message in {
            "delay=5": "add a unit", "delay=": "expected a duration", "delay=-5s": "cannot be negative",
            "delay=7304485d": "7304484 days", "delay=5s&delay=6s": "given twice", "delay=%FF": "expected a duration",
            "limit-key=a": "requires a scope", "&".join(["a=1"] * 1001): "more than 1,000",
        }.items():  # fmt: skip
            answer = await ingress.post(f"/restate/send/Echo/greet?{query}", "you")
            assert (answer.status_code, message in answer.text) == (400, True), (query, answer.text)
        answer = await ingress.post("/restate/call/Echo/greet?delay=5s", "you")
        assert (answer.status_code, "only with sends" in answer.text) == (400, True)
        assert (await ingress.post("/Echo/greet?tag=a&tag=b", "you")).status_code == 200

    story(tell)


# ---- idempotency ----


def test_the_same_key_is_answered_with_the_first_result() -> None:
    """C-071, C-072."""

    async def tell(ingress: Served) -> None:
        first = await ingress.post("/Cart/k/add", 2, idempotency_key="one")
        again = await ingress.post("/Cart/k/add", 5, idempotency_key="one")
        assert first.json() == again.json() == 2, "the second body is ignored"
        assert first.headers["x-restate-id"] == again.headers["x-restate-id"]
        assert "idempotency-expires" not in first.headers
        assert again.headers["idempotency-expires"].endswith("Z")
        sent = await ingress.post("/Cart/k/add/send", 5, idempotency_key="one")
        assert sent.json() == {"invocationId": first.headers["x-restate-id"], "status": "PreviouslyAccepted"}
        assert (await ingress.post("/Cart/j/add", 5, idempotency_key="one")).json() == 5, "another key is another one"
        for _ in range(2):
            late = await ingress.post("/restate/send/Cart/k/add?delay=1h", 1, idempotency_key="later")
        assert late.json()["status"] == "PreviouslyAccepted" and late.json()["executionTime"]
        for value in (b"\xc3\xa9", b"a\x80"):
            answer = await ingress.http.post("/Cart/k/add", json=1, headers=[(b"idempotency-key", value)])
            assert (answer.status_code, "in printable ASCII" in answer.text) == (400, True)
        twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
        assert (await ingress.http.post("/Cart/k/add", json=1, headers=twice)).status_code == 400
        failed = [await ingress.post("/Echo/refuse", idempotency_key="f") for _ in range(2)]
        assert failed[0].content == failed[1].content and failed[1].headers["idempotency-expires"]

    story(tell)


def test_who_joins_waits_for_the_end() -> None:
    """C-073, C-074."""

    async def tell(ingress: Served) -> None:
        asking = [asyncio.ensure_future(ingress.post("/Echo/waiter", idempotency_key="w")) for _ in range(3)]
        id = await ingress.awakeable()
        await ingress.engine.resolve_awakeable(id, "done")
        answers = await asyncio.gather(*asking)
        assert {(one.status_code, one.json()) for one in answers} == {(200, "done")}
        assert len({one.headers["x-restate-id"] for one in answers}) == 1

    story(tell)


def test_a_workflow_runs_once() -> None:
    """C-045; C-086: a workflow's key is its idempotency key."""

    async def tell(ingress: Served) -> None:
        refused = await ingress.post("/SignUp/w/run", "you", idempotency_key="k")
        assert (refused.status_code, "already be idempotent" in refused.text) == (400, True)
        first = await ingress.post("/SignUp/w/run/send", "you ")
        again = await ingress.post("/SignUp/w/run/send", "me ")
        assert [one.json()["status"] for one in (first, again)] == ["Accepted", "PreviouslyAccepted"]
        assert first.json()["invocationId"] == again.json()["invocationId"]
        called = await ingress.post("/SignUp/w/run", "you ")
        assert (called.status_code, called.json()) == (
            409, {"code": 409, "message": "the workflow method was already invoked", "source": "invocation"},
        )  # fmt: skip
        assert called.headers["x-restate-id"] == first.json()["invocationId"]
        assert (await ingress.post("/SignUp/w/answer", "are in", idempotency_key="a")).status_code == 200
        assert (await ingress.engine.attach(first.json()["invocationId"])) == "you are in"
        assert (await ingress.post("/SignUp/w/run", "you ")).status_code == 409, "when it has ended, too"
        asking = asyncio.ensure_future(ingress.post("/SignUp/x/run", "she "))
        while not await ingress.engine.count_invocations(key="x"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await ingress.post("/SignUp/x/answer", "is in")
        assert (await asking).json() == "she is in"

    story(tell)


def test_what_is_not_there_is_named() -> None:
    """C-085."""

    async def tell(ingress: Served) -> None:
        for path, message in (
            ("/Nope/x", "service 'Nope' not found"),
            ("/Echo/nope", "the service 'Echo' exists, but the handler 'nope' was not found"),
            ("/Cart/k/$patch-state", "the handler '$patch-state' was not found"),
            ("/Cart/k/%24patch-state", "the handler '$patch-state' was not found"),
        ):
            answer = await ingress.post(path, 1)
            assert (answer.status_code, message in answer.json()["message"]) == (404, True), answer.text
        for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
            answer = await ingress.http.request(method, "/Echo/greet")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")

    story(tell)


def test_a_value_above_the_engines_limit_is_refused_with_413() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        services = [*SERVICES, Cart(), SignUp()]
        engine = Engine(services=services, store=MemoryStore(), clock=clock, max_value_size=2048)
        async with served(engine=engine) as ingress:
            assert (await ingress.post("/Echo/greet", "x" * 2000)).status_code == 200
            for answer in (
                await ingress.post("/Echo/greet", "x" * 3000),
                await ingress.post("/Echo/greet", "x", x_long="x" * 3000),
            ):
                assert (answer.status_code, "at most 2,048" in answer.json()["message"]) == (413, True), answer.text

    run(main)


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_a_body_arrives_in_pieces(size: int) -> None:
    async def tell(ingress: Served) -> None:
        data = os.urandom(size)
        asked = Asked("/Echo/raw", headers={"content-type": "application/octet-stream"})
        for start in range(0, size, 60_000):
            asked.part(data[start : start + 60_000], more=True)
        asked.part()
        await asked.of(ingress.app)
        assert asked.body == data

    story(tell)
