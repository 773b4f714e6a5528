"""What both sides' ingress is asked: calls, sends, results, awakeables; what is refused."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.admin.facts.questions import Question, filled
from tests.admin.facts.sides import Side

JSON = {"content-type": "application/json"}
#: Headers that say something of the answer.
TELLING = ("content-type", "idempotency-expires", "x-restate-id", "retry-after", "allow")


def asks(method: str, path: str, body: Any = None, **options: Any) -> Callable[[Side], Any]:
    """One request to the ingress; a body that is not None is JSON."""

    def ask(side: Side) -> Any:
        given = dict(options)
        if body is not None:
            given |= {"content": filled(json.dumps(body), side), "headers": {**JSON, **given.get("headers", {})}}
        answer = side.http.request(method, f"{side.ingress}{filled(path, side)}", **given)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return {
            "status": answer.status_code,
            "headers": {name: answer.headers[name] for name in TELLING if name in answer.headers},
            "body": answer.json() if is_json and answer.content else answer.text,
        }

    return ask


def questions() -> Iterator[Question]:
    """Everything that a client can ask."""
    keyed = {"idempotency-key": "again"}
    yield "ingress: a call", asks("POST", "/Greeter/greet", "you")
    yield "ingress: a call", asks("POST", "/restate/call/Greeter/greet", "you")
    yield "ingress: a call", asks("POST", "/Cart/c/add", 2)
    yield "ingress: a call", asks("POST", "/Cart/a%2Fb/add", 2)
    yield "ingress: a call", asks("GET", "/Cart/c/count")
    yield "ingress: a call", asks("POST", "/SignUp/eve/answer", "yes")
    yield "ingress: a call with a key", asks("POST", "/Greeter/greet", "you", headers=keyed)
    yield "ingress: a call with a key", asks("POST", "/Greeter/greet", "other", headers=keyed)
    yield "ingress: a call that fails", asks("POST", "/Greeter/refuse")
    yield "ingress: a send", asks("POST", "/Greeter/greet/send", "you")
    yield "ingress: a send", asks("POST", "/restate/send/Greeter/greet", "you", params={"delay": "1h"})
    yield "ingress: a send", asks("POST", "/restate/send/Cart/c/add", 1, params={"delay": "PT1H"})
    yield "ingress: a send again", asks("POST", "/Greeter/greet/send", "you", headers=keyed)
    yield "ingress: a send again", asks("POST", "/SignUp/bob/run/send", "Bob")
    yield "ingress: a call of a workflow that has run", asks("POST", "/SignUp/bob/run", "Bob")
    yield "ingress: a call of what is not public", asks("POST", "/Quiet/odd", [1, 2])
    yield "ingress: a call of an unknown service", asks("POST", "/No/greet", "you")
    yield "ingress: a call of an unknown handler", asks("POST", "/Greeter/no", "you")
    yield "ingress: a call without a key", asks("POST", "/Cart/add", 2)
    yield "ingress: a call with another method", asks("PUT", "/Greeter/greet", "you")
    yield "ingress: a call without a body", asks("POST", "/Greeter/greet")
    yield (
        "ingress: a call with text",
        asks("POST", "/Greeter/greet", content="you", headers={"content-type": "text/plain"}),
    )
    yield "ingress: a call with what is no JSON", asks("POST", "/Greeter/greet", content="you", headers=JSON)
    yield "ingress: a call with a body that is not taken", asks("POST", "/Greeter/refuse", 1)
    yield (
        "ingress: a send with a delay that is none",
        asks("POST", "/Greeter/greet/send", "you", params={"delay": "no"}),
    )
    yield "ingress: a call with a delay", asks("POST", "/Greeter/greet", "you", params={"delay": "1h"})
    for label in ("greeted", "refused", "killed"):
        yield "ingress: a result", asks("GET", f"/restate/invocation/{{{label}}}/attach")
        yield "ingress: a result", asks("GET", f"/restate/invocation/{{{label}}}/output")
        yield "ingress: a result", asks("GET", f"/restate/attach/{{{label}}}")
        yield "ingress: a result", asks("GET", f"/restate/output/{{{label}}}")
    yield "ingress: a result by key", asks("GET", "/restate/invocation/Greeter/greet/once/attach")
    yield "ingress: a result by key", asks("GET", "/restate/invocation/Greeter/greet/once/output")
    yield "ingress: a result of a workflow", asks("GET", "/restate/workflow/SignUp/bob/attach")
    yield "ingress: a result of a workflow", asks("GET", "/restate/workflow/SignUp/bob/output")
    yield "ingress: a result that is not there yet", asks("GET", "/restate/invocation/{sleeper}/output")
    yield "ingress: a result that is not there yet", asks("GET", "/restate/workflow/SignUp/ada/output")
    for path in (
        "/restate/invocation/{unknown}/attach", "/restate/invocation/{unknown}/output", "/restate/output/{unknown}",
        "/restate/invocation/Greeter/greet/no/attach", "/restate/workflow/SignUp/no/attach",
        "/restate/workflow/SignUp/no/output",
    ):  # fmt: skip
        yield "ingress: a result of an unknown one", asks("GET", path)
    yield "ingress: a result of a malformed id", asks("GET", "/restate/invocation/no/attach")
    lookup = {"target": "idempotentInvocation", "service": "Greeter", "handler": "greet", "idempotencyKey": "once"}
    yield "ingress: a lookup", asks("POST", "/restate/lookup", lookup)
    yield (
        "ingress: a lookup",
        asks("POST", "/restate/lookup", {"target": "workflow", "workflowName": "SignUp", "workflowKey": "bob"}),
    )
    yield "ingress: a lookup of an unknown one", asks("POST", "/restate/lookup", {**lookup, "idempotencyKey": "no"})
    yield "ingress: a lookup of another shape", asks("POST", "/restate/lookup", {"target": "no"})
    yield "ingress: an awakeable of a malformed id", asks("POST", "/restate/awakeables/no/resolve", "yes")
    yield "ingress: health", asks("GET", "/restate/health")
    yield "ingress: an unknown route", asks("GET", "/restate/no")
    yield "ingress: the root", asks("GET", "/")
