"""What both ingresses are asked, in this order."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx

#: How it is named in the table, and what asks it.
Question = tuple[str, Callable[["Side"], Any]]
JSON = {"content-type": "application/json"}
OCTETS = {"content-type": "application/octet-stream"}
#: Headers of every answer of a server, whatever it was asked.
_OF_THE_SERVER = {"date", "server", "content-length", "connection"}
_FORMS = (
    (re.compile(r"\binv_1\w{33}\b"), "ID"),
    (re.compile(r"\bsign_1[\w-]+"), "AWAKEABLE"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)"), "TIME"),
    (re.compile(r"\n\nStack backtrace:.*", re.DOTALL), " STACK"),
)


class Side:
    """One of the two, and what was learned from its answers."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30)
        self.known = {"unknown": "inv_1gjp8rcHFUBF0ESVSZgW5K0K6YrhF5HZrf", "awakeable": ""}

    def filled(self, text: str) -> str:
        """A text with what was learned in the place of names in braces."""
        return re.sub(r"\{(\w+)\}", lambda name: self.known[name[1]], text)

    def next_awakeable(self) -> None:
        """Learn the id of the awakeable that the next waiter waits for."""
        deadline, before = time.monotonic() + 30, self.known["awakeable"]
        while (id := self.http.post("/Cart/id/read").json()) in ("", before):
            assert time.monotonic() < deadline, "nobody waits"
            time.sleep(0.02)
        self.known["awakeable"] = id


def request(method: str, path: str, *, learn: str = "", **options: Any) -> Callable[[Side], Any]:
    """One request; `learn` is the name under which the id in its answer is known from then on."""

    def ask(side: Side) -> Any:
        given = dict(options)
        if "json" in given:
            given["json"] = {
                name: side.filled(value) if isinstance(value, str) else value for name, value in given["json"].items()
            } if isinstance(given["json"], dict) else given["json"]  # fmt: skip
        answer = side.http.request(method, side.filled(path), **given)
        if learn:
            side.known[learn] = answer.headers["x-restate-id"]
        found: dict[str, Any] = {
            "status": answer.status_code,
            "headers": {name: plain(value) for name, value in answer.headers.items() if name not in _OF_THE_SERVER},
        }
        if answer.headers.get("content-type", "").startswith("application/json") and answer.content:
            found["body"] = parts(answer.json())
        elif answer.content:
            found["body"] = repr(answer.content)
        return found

    return ask


def parts(value: Any) -> Any:
    """JSON in which ids and times read the same on both sides."""
    match value:
        case dict():
            return {name: parts(one) for name, one in value.items()}
        case list():
            return [parts(one) for one in value]
        case str():
            return plain(value)
    return value


def plain(text: str) -> str:
    """A text in which ids and times read the same on both sides."""
    for form, name in _FORMS:
        text = form.sub(name, text)
    return text


def awakeable(side: Side) -> Any:
    """Wait until somebody waits."""
    side.next_awakeable()


def ended(side: Side) -> Any:
    """Wait until the workflow has ended: who attaches before is answered without an expiry."""
    deadline = time.monotonic() + 30
    while side.http.get("/restate/workflow/SignUp/w1/output").status_code == 470:
        assert time.monotonic() < deadline, "the workflow does not end"
        time.sleep(0.02)


def questions() -> Iterator[Question]:
    """All of them."""
    yield from calls()
    yield from bodies()
    yield from failures()
    yield from paths()
    yield from keys()
    yield from sends()
    yield from idempotency()
    yield from workflows()
    yield from results()
    yield from targets()
    yield from awakeables()
    yield from browsers()


def named(method: str, path: str, what: str = "", **options: Any) -> Question:
    """A request that is called as it is."""
    return f"{method} {path}{' ' if what else ''}{what}", request(method, path, **options)


def calls() -> Iterator[Question]:
    for path in ("/Echo/greet", "/restate/call/Echo/greet", "/Echo/greet/"):
        yield named("POST", path, json="you")
    for path in ("/Cart/k/add", "/restate/call/Cart/k/add"):
        yield named("POST", path, json=1)
    for path in ("/Echo/count", "/Echo/nothing", "/restate/call/Echo/count"):
        yield named("GET", path)
        yield named("POST", path)
    for method in ("PUT", "DELETE", "PATCH", "HEAD"):
        yield named(method, "/Echo/count")
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    sent = [
        *trace.items(), ("x-my", "a"), ("x-two", "a"), ("x-two", "b"), ("cookie", "a=b"), ("authorization", "x"),
    ]  # fmt: skip
    yield named("POST", "/Echo/headers?x=1", headers=sent)
    yield named("GET", "/restate/health")
    for method in ("POST", "PUT"):
        yield named(method, "/restate/health")


def bodies() -> Iterator[Question]:
    for headers, content in (
        (JSON, b"not json"), (JSON, b"1"), ({}, b'"x"'), ({"content-type": "text/plain"}, b'"x"'), (JSON, b""),
        ({"content-type": "application/json; charset=utf-8"}, b'"x"'), ({"content-type": "Application/JSON"}, b'"x"'),
        ({"content-type": "application/*"}, b'"x"'), ({}, b""),
    ):  # fmt: skip
        what = f"with {content.decode()!r} as {headers.get('content-type')}"
        yield named("POST", "/Echo/greet", what, headers=headers, content=content)
    for headers, content in ((OCTETS, b"\0\xff"), (JSON, b"\0\xff"), ({}, b"\0\xff"), ({}, b""), (OCTETS, b"")):
        what = f"with {len(content)} bytes as {headers.get('content-type')}"
        yield named("POST", "/Echo/raw", what, headers=headers, content=content)
    for headers, content in ((JSON, b""), ({}, b"{}"), (JSON, b"null")):
        what = f"with {content.decode()!r} as {headers.get('content-type')}"
        yield named("POST", "/Echo/nothing", what, headers=headers, content=content)
    yield "POST /Echo/raw with 33 MiB", request("POST", "/Echo/raw", headers=OCTETS, content=b"x" * (33 << 20))


def failures() -> Iterator[Question]:
    yield named("POST", "/Echo/refuse")
    for code in (400, 404, 418, 499, 500, 503, 599):
        yield named("POST", "/Echo/fail", f"with {code}", json=code)
    yield named("POST", "/Hidden/secret")
    yield named("POST", "/restate/call/Hidden/secret")
    yield named("POST", "/restate/send/Hidden/secret")


def paths() -> Iterator[Question]:
    for path in (
        "/", "/Echo", "/Nope/x", "/Echo/nope", "/Echo/greet/x", "/Echo/greet/send/x", "/Cart/add", "/Cart/k/add/x",
        "/restate/call/Cart/add", "/restate/call/Echo", "/restate/call", "/restate/call/Echo/greet/more",
        "/restate/call/Nope/x", "/restate", "/restate/x", "/restate/x/y", "/restate/health/x", "/restate/lookup/x/y",
        "/restate/scope/a/call/Echo/greet", "/restate/call/Echo/greet?limit-key=a", "/restate/awakeables/a",
        "/restate/awakeables/a/x", "/restate/attach/{unknown}/x", "/restate/output/{unknown}/x",
    ):  # fmt: skip
        yield named("POST", path, json="x")
    for path in ("/openapi/x", "/restate/invocation/{unknown}", "/restate/invocation/{unknown}/x"):
        yield named("GET", path)


def keys() -> Iterator[Question]:
    for key in (
        "a/b", "/", " ", "a b", "\u00e9", "\u20ac", "\U0001f600", "%", "a+b", "..", ";,:@&=$!*'()", "\n", "a?b#c", "",
        "\0", "k" * 60_000,
    ):  # fmt: skip
        for path in ("/restate/call/Cart/{}/key", "/Cart/{}/key"):
            yield f"POST {path} of {key[:20]!r}", request("POST", path.replace("{}", quote(key, safe="")))
    for encoded in ("%ff", "a%2", "%zz"):
        yield named("POST", f"/Cart/{encoded}/key")


def sends() -> Iterator[Question]:
    for path in ("/Echo/greet/send", "/restate/send/Echo/greet", "/Cart/k/add/send"):
        yield named("POST", path, json="you" if "Echo" in path else 1)
    yield named("GET", "/Echo/count/send")
    for delay in (
        "10s", "PT0.5S", "0", "1h 30m", "1 hour, 30 minutes", "01:30:00", "5", "", "-5s", "1.5d", "5H", "1mo", " 5s",
    ):  # fmt: skip
        yield (
            "POST /restate/send/Echo/greet?delay=" + delay,
            request("POST", "/restate/send/Echo/greet", params={"delay": delay}, json="you"),
        )
    for query in ("DELAY=5s", "x=5", "delay=5s&delay=1h"):
        yield named("POST", f"/restate/send/Echo/greet?{query}", json="you")
    yield named("POST", "/restate/call/Echo/greet?delay=5s", json="you")


def idempotency() -> Iterator[Question]:
    one = {"idempotency-key": "one"}
    for number in ("first", "second"):
        yield named("POST", "/Cart/idem/add", f"{number} time", json=2, headers=one)
    yield named("POST", "/Cart/idem/add/send", "again", json=2, headers=one)
    yield named("POST", "/Cart/other/add", "with the same idempotency key", json=5, headers=one)
    for number in ("first", "second"):
        yield named("POST", "/Echo/refuse", f"{number} time", headers=one)
        late = {"idempotency-key": "late"}
        yield named("POST", "/restate/send/Echo/greet?delay=1h", f"{number} time", json="you", headers=late)
    yield named("POST", "/Echo/count", "with an empty idempotency key", headers={"idempotency-key": ""})
    yield named(
        "POST", "/Echo/count", "with an idempotency key in UTF-8", headers=[(b"idempotency-key", b"\xc3\xa9")]
    )
    twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
    yield named("POST", "/Echo/count", "with two idempotency keys", headers=twice)


def workflows() -> Iterator[Question]:
    key = {"idempotency-key": "k"}
    yield named("POST", "/restate/call/SignUp/w1/run", "with an idempotency key", json="you", headers=key)
    yield named("POST", "/restate/send/SignUp/w1/run", "first time", json="you ", learn="run")
    yield named("POST", "/restate/send/SignUp/w1/run", "second time", json="you ")
    yield named("POST", "/restate/call/SignUp/w1/run", "third time", json="you ")
    yield named("GET", "/restate/workflow/SignUp/w1/output", "while it runs")
    yield named("GET", "/restate/output/{run}", "while it runs")
    yield named("POST", "/restate/call/SignUp/w1/answer", json="are in", headers=key)
    yield "the workflow's end", ended


def results() -> Iterator[Question]:
    for path in (
        "/restate/workflow/SignUp/w1", "/restate/invocation/{run}", "/restate/invocation/Cart/idem/add/one",
        "/restate/invocation/Echo/refuse/one", "/restate/workflow/SignUp/w2", "/restate/workflow/Cart/w1",
        "/restate/workflow/Nope/w1", "/restate/invocation/{unknown}", "/restate/invocation/inv_nope",
        "/restate/invocation/Echo/greet/none", "/restate/invocation/Cart/k/add/none",
        "/restate/invocation/Nope/greet/none",
    ):  # fmt: skip
        for verb in ("attach", "output"):
            yield named("GET", f"{path}/{verb}")
    for path in ("/restate/VERB/{run}", "/restate/VERB/{unknown}", "/restate/VERB/inv_nope"):
        for verb in ("attach", "output"):
            yield named("GET", path.replace("VERB", verb))
            yield named("POST", path.replace("VERB", verb))
    yield named("POST", "/restate/workflow/SignUp/w1/output")
    yield named("GET", "/restate/workflow/SignUp/w1/other")
    yield named("GET", "/restate/workflow/SignUp/w1/output/x")
    yield named("GET", "/restate/workflow/SignUp/w1")


def targets() -> Iterator[Question]:
    for verb in ("attach", "output", "lookup"):
        for number, target in enumerate((
            {"target": "workflow", "workflowName": "SignUp", "workflowKey": "w1"},
            {"target": "workflow", "workflowName": "SignUp", "workflowKey": "w1", "scope": None, "unknown": 1},
            {"target": "workflow", "workflowName": "Nope", "workflowKey": "w1"},
            {"target": "invocation", "invocationId": "{run}"},
            {"target": "invocation", "invocationId": "{unknown}"},
            {"target": "invocation", "invocationId": "inv_nope"},
            {"target": "idempotentInvocation", "service": "Cart", "key": "idem", "handler": "add",
             "idempotencyKey": "one"},
            {"target": "idempotentInvocation", "service": "Echo", "handler": "refuse", "idempotencyKey": "one"},
            {"target": "idempotentInvocation", "service": "Nope", "handler": "greet", "idempotencyKey": "one"},
        )):  # fmt: skip
            yield named("POST", f"/restate/{verb}", f"with target {number}", json=target)
        for content in (b"{", b"[]", b"{}", b'{"target":"what"}', b""):
            what = f"with the body {content.decode()!r}"
            yield named("POST", f"/restate/{verb}", what, content=content, headers=JSON)
        yield named("GET", f"/restate/{verb}")


def awakeables() -> Iterator[Question]:
    for id in ("sign_nope", "prom_nope", "inv_nope"):
        yield named("POST", f"/restate/awakeables/{id}/resolve", json=1)
    yield named("GET", "/restate/awakeables/sign_nope/resolve")
    for way, body, target in (
        ("resolve", b'"yes"', "waiter"), ("reject", b"no \xff", "waiter"), ("resolve", b"\0\x01", "raw_waiter"),
        ("resolve", b"", "raw_waiter"),
    ):  # fmt: skip
        yield named("POST", f"/restate/send/Echo/{target}", learn="waiting")
        yield "(somebody waits)", awakeable
        for path in ("/restate/awakeables", "/restate/a"):
            yield named("POST", f"{path}/{{awakeable}}/{way}", f"with {body!r}", content=body)
        yield named("POST", "/restate/a/{awakeable}/resolve", "again", content=b'"again"')
        yield named("GET", "/restate/attach/{waiting}", f"after {way} with {body!r}")


def browsers() -> Iterator[Question]:
    shop = {"origin": "https://shop.example.com"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    yield named("OPTIONS", "/Echo/count")
    yield named("OPTIONS", "/Echo/count", "of a page of another site", headers={**shop, **asked})
    yield named("POST", "/Echo/count", "of a page of another site", headers=shop)
    yield named("GET", "/Echo/count", "of an image in a page", headers={"sec-fetch-site": "cross-site"})
    yield named("POST", "/Echo/count", "under another name", headers={"host": "evil.example"})
