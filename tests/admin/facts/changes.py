"""What changes something: every verb in every state, what is refused, options, state, calls of the command line."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.admin.facts.questions import Question, call, request
from tests.admin.facts.sides import Side

VERBS = ("cancel", "kill", "pause", "resume", "purge", "purge-journal", "restart-as-new")
STATES = (
    "running", "suspended", "backing-off", "paused", "scheduled", "pending", "succeeded", "failed", "killed",
    "workflow",
)  # fmt: skip
#: Verbs with parameters, each in a few states.
MORE = (
    ("restart-as-new?from=1", "succeeded"), ("restart-as-new?from=1", "failed"),
    ("restart-as-new?from=99", "succeeded"), ("restart-as-new?from=x", "succeeded"),
    ("restart-as-new?deployment=no", "succeeded"), ("resume?deployment=latest", "running"),
    ("resume?deployment=latest", "paused"), ("resume?deployment=no", "paused"),
)  # fmt: skip
TRIED = (*((verb, state) for state in STATES for verb in VERBS), *MORE)
#: Invocations that are brought into a state once more, for each verb.
STARTS = {
    "running": "Greeter/sleeper",
    "suspended": "Quiet/nap",
    "backing-off": "Greeter/boom",
    "paused": "Greeter/stop",
    "scheduled": "Greeter/greet",
    "pending": "Cart/{key}/add",
    "succeeded": "Greeter/greet",
    "failed": "Greeter/refuse",
    "killed": "Greeter/sleeper",
    "workflow": "SignUp/{key}/answer",
}
INPUTS: dict[str, Any] = {"pending": 1, "scheduled": "you", "succeeded": "you", "workflow": "yes"}
ENDS = {"succeeded": "completed", "failed": "completed", "killed": "running", "workflow": "completed"}


def prepare(side: Side) -> None:
    """One invocation for each verb and state."""
    for verb, state in TRIED:
        label = f"{verb} {state}"
        if state == "pending":
            side.start(f"{label} holder", f"Cart/{verb}/hold")
        delay = "1h" if state == "scheduled" else None
        side.start(label, STARTS[state].format(key=verb), INPUTS.get(state), delay=delay)
    for state in STATES:
        labels = [f"{verb} {tried}" for verb, tried in TRIED if tried == state]
        side.reaches(ENDS.get(state, state), *labels)
        if state == "killed":
            for label in labels:
                side.http.patch(f"/invocations/{side.ids[label]}/kill").raise_for_status()
            side.reaches("completed", *labels)
    side.settles()


def verbs() -> Iterator[Question]:
    """Each verb in each state, and what becomes of the invocation."""
    for verb, state in (*TRIED, *((verb, state) for verb in VERBS for state in ("unknown", "malformed"))):
        id = {"unknown": "{unknown}", "malformed": "no"}.get(state, f"{{{verb} {state}}}")
        yield f"PATCH /invocations/{{id}}/{verb} of {state}", request("PATCH", f"/invocations/{id}/{verb}")


def afterwards(sides: tuple[Side, Side]) -> list[dict[str, str]]:
    """What has become of them, once that stays the same for a while."""
    labels = [f"{verb} {state}" for verb, state in TRIED]
    found: list[dict[str, str]] = []
    for _ in range(50):
        before, found = found, [side.statuses(*labels) for side in sides]
        if found == before:
            break
        time.sleep(0.3)
    return found


def refused() -> Iterator[Question]:
    """Bodies, types and parameters that are not as they should be."""
    json = {"content-type": "application/json"}
    for asked, method, path in (
        ("POST /query", "POST", "/query"),
        ("PATCH /services/Greeter", "PATCH", "/services/Greeter"),
        ("POST /services/Cart/state", "POST", "/services/Cart/state"),
        ("POST of a batch", "POST", "/internal/invocations_batch_operations/cancel"),
    ):
        yield f"malformed: {asked} with text", request(method, path, content="no", headers=json)
        yield (
            f"malformed: {asked} of another shape",
            request(method, path, content='{"query": 1, "public": "x"}', headers=json),
        )
        yield f"malformed: {asked} without a type", request(method, path, content="{}")
        yield f"malformed: {asked} without a body", request(method, path, headers=json)
    for change in (
        {"abort_timeout": "5"}, {"abort_timeout": "-5s"}, {"abort_timeout": 5}, {"public": "yes"},
    ):  # fmt: skip
        yield f"malformed: PATCH /services/Greeter with {change}", request("PATCH", "/services/Greeter", json=change)
    fields: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("PATCH", "/services/Greeter", {"journal_retntion": "12h"}),
        ("POST", "/services/Cart/state", {"object_key": "unknown", "new_state": {"a": [49]}, "verson": "x"}),
        ("POST", "/internal/invocations_batch_operations/kill", {"invocation_ids": ["{unknown}"], "dry_run": True}),
    )
    for method, path, change in fields:
        yield f"{method} {path} with an unknown field", request(method, path, json=change)
    yield (
        "PATCH /services/{service} with a workflow's option",
        request("PATCH", "/services/Greeter", json={"workflow_completion_retention": "1h"}),
    )
    yield "PATCH /services of an unknown one", request("PATCH", "/services/No", json={"public": True})
    for asked, body in (
        ("of a service", ("Greeter", {"object_key": "k", "new_state": {}})),
        ("of an unknown service", ("No", {"object_key": "k", "new_state": {"a": [1]}})),
        ("of an unknown service, empty", ("No", {"object_key": "k", "new_state": {}})),
        ("with no bytes", ("Cart", {"object_key": "k", "new_state": {"a": [256]}})),
        ("with a stale version", ("Cart", {"object_key": "stale", "new_state": {"a": [49]}, "version": "no"})),
    ):
        yield f"POST /services/{{service}}/state {asked}", request("POST", f"/services/{body[0]}/state", json=body[1])
    for statement in (
        "SELEC 1", "SELECT * FROM nowhere", "SELECT nowhere FROM sys_invocation", "DELETE FROM state",
        "SELECT 1; SELECT 2", "SELECT 1::TEXT AS one", "SELECT now() - INTERVAL '1 hour' > now() AS later",
        "SELECT INTERVAL '1 hour' AS hour",
        "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 3) SELECT x FROM n",
        "SELECT count(*) AS c FROM information_schema.columns a, information_schema.columns b HAVING c < 0",
        "SELECT 1 FROM information_schema.columns a, information_schema.columns b, sys_service LIMIT 50001",
    ):  # fmt: skip
        yield (
            f"POST /query: {statement}",
            shape(request("POST", "/query", json={"query": statement}, headers={"accept": "application/json"})),
        )
    yield (
        "POST of a batch with unknown ids",
        request(
            "POST", "/internal/invocations_batch_operations/kill", json={"invocation_ids": ["{unknown}", "{greeted}"]}
        ),
    )
    yield (
        "POST of a batch with malformed ids",
        request("POST", "/internal/invocations_batch_operations/kill", json={"invocation_ids": ["inv_no"]}),
    )
    yield (
        "POST of a batch that is too large",
        request("POST", "/internal/invocations_batch_operations/kill", json={"invocation_ids": ["{unknown}"] * 1001}),
    )
    yield "DELETE /invocations/{id} of an unknown one", request("DELETE", "/invocations/{unknown}?mode=Kill")
    yield "DELETE /invocations/{id} of a malformed id", request("DELETE", "/invocations/no")
    yield "DELETE /invocations/{id} with a malformed mode", request("DELETE", "/invocations/{unknown}?mode=no")
    yield "DELETE /invocations with a sid", request("DELETE", "/invocations", json={"sid": "{unknown}"})
    yield (
        "POST /deployments",
        shape(request("POST", "/deployments", json={"uri": "{endpoint}", "dry_run": True})),
    )
    yield "PATCH /deployments/{deployment}", shape(request("PATCH", "/deployments/{deployment}", json={}))
    yield "DELETE /deployments/{deployment}", request("DELETE", "/deployments/{deployment}")
    subscription = {"source": "kafka://no/topic", "sink": "service://Greeter/greet"}
    yield "POST /subscriptions", request("POST", "/subscriptions", json=subscription)
    yield "DELETE /subscriptions of an unknown one", request("DELETE", "/subscriptions/sub_11XHoawrCiWtv8kzhEyGtsR")
    yield "POST /kafka-clusters", request("POST", "/kafka-clusters", json={"name": "no", "properties": {}})
    yield "DELETE /kafka-clusters of an unknown one", request("DELETE", "/kafka-clusters/no")
    yield "PUT /limits/rules", request("PUT", "/limits/rules", json=[])
    yield "POST /limits/rules/bulk-delete", request("POST", "/limits/rules/bulk-delete", json=[])
    yield "POST /vqueues/{id}/pause", request("POST", "/vqueues/no/pause", json={})
    yield (
        "POST /internal/services/{service}/serdes",
        request("POST", "/internal/services/Cart/serdes/decode/x", json=1),
    )
    yield "GET with a foreign Host", shape(request("GET", "/services", headers={"host": "example.com"}))
    yield (
        "PATCH with a foreign Origin",
        shape(request("PATCH", "/services/Greeter", json={}, headers={"origin": "https://example.com"})),
    )
    yield "GET with Accept-Encoding", compressed


def reading() -> Iterator[Question]:
    """A Kafka cluster, and a subscription that reads from it; nobody is there."""
    changed = {"bootstrap.servers": "127.0.0.1:2", "client.id": "us"}
    source, sink = "kafka://more/topic", "service://Cart/add"
    cluster = {"name": "more", "properties": {"bootstrap.servers": "127.0.0.1:1"}}
    yield "POST /kafka-clusters of a new one", request("POST", "/kafka-clusters", json=cluster)
    yield "POST /kafka-clusters again", request("POST", "/kafka-clusters", json=cluster)
    yield "POST /kafka-clusters of a bad name", request("POST", "/kafka-clusters", json={**cluster, "name": "a b"})
    yield "GET /kafka-clusters, one", request("GET", "/kafka-clusters")
    yield "GET /kafka-clusters/{cluster}", request("GET", "/kafka-clusters/more")
    yield "PATCH /kafka-clusters/{cluster}", request("PATCH", "/kafka-clusters/more", json={"properties": changed})
    for label, own in (("plain", {}), ("reader", {"options": {"auto.offset.reset": "earliest", "client.id": "me"}})):
        wanted = {"source": source, "sink": sink, **own}
        yield f"POST /subscriptions, {label}", kept(label, request("POST", "/subscriptions", json=wanted))
    yield "GET /subscriptions, two", request("GET", "/subscriptions")
    for query in ("source=kafka://more/topic", "source=kafka://more/none", "sink=service://Cart/add&source=no"):
        yield f"GET /subscriptions?{query}", request("GET", f"/subscriptions?{query}")
    yield "GET /subscriptions/{subscription}", request("GET", "/subscriptions/{reader}")
    yield "restate subscriptions list", call("subscriptions", "list")
    yield "restate subscriptions describe", call("subscriptions", "describe", "{reader}")
    yield (
        "GET /kafka-clusters/{cluster} with subscriptions",
        request("GET", "/kafka-clusters/more?include_subscriptions=true"),
    )
    yield "DELETE /kafka-clusters/{cluster} that is read", request("DELETE", "/kafka-clusters/more")
    yield "DELETE /subscriptions/{subscription}", request("DELETE", "/subscriptions/{reader}")
    yield "restate subscriptions delete", call("subscriptions", "delete", "{plain}")
    yield "DELETE /kafka-clusters/{cluster} by force", request("DELETE", "/kafka-clusters/more?force=true")
    yield "restate kafka-clusters create", call("kafka-clusters", "create", "other", "bootstrap.servers=127.0.0.1:1")
    yield "restate kafka-clusters list", call("kafka-clusters", "list")
    yield "restate kafka-clusters patch", call("kafka-clusters", "patch", "other", "--set", "client.id=me")
    yield "restate kafka-clusters describe", call("kafka-clusters", "describe", "other")
    yield (
        "restate subscriptions create",
        whether(call("subscriptions", "create", "kafka://other/t", sink, "auto.offset.reset=earliest")),
    )
    yield "restate kafka-clusters delete", call("kafka-clusters", "delete", "other", "--force")


def kept(label: str, ask: Callable[[Side], Any]) -> Callable[[Side], Any]:
    """An answer whose `id` is called `label` from now on."""

    def asked(side: Side) -> Any:
        answer = ask(side)
        side.ids[label] = answer["body"].get("id", "none")
        return answer

    return asked


def whether(ask: Callable[[Side], Any]) -> Callable[[Side], Any]:
    """Only whether it was done: a new id stands in what is printed."""
    return lambda side: ask(side)["status"]


def shape(ask: Callable[[Side], Any]) -> Callable[[Side], Any]:
    """An answer, but for what it lists."""

    def less(side: Side) -> Any:
        answer = ask(side)
        body = answer.get("body")
        if isinstance(body, dict) and answer["status"] == 200:
            answer["body"] = ", ".join(sorted(body))
        return answer

    return less


def compressed(side: Side) -> Any:
    """How an answer is compressed for those who can read that."""
    answer = side.http.get("/services", headers={"accept-encoding": "gzip"})
    return {"compression": answer.headers.get("content-encoding", "none")}


def options() -> Iterator[Question]:
    """What can be set while it runs."""
    for change in (
        {"public": False}, {"public": True}, {"idempotency_retention": "5 hours"}, {"journal_retention": "PT90M"},
        {"inactivity_timeout": "1h, 30m"}, {"abort_timeout": "1.5h"}, {"abort_timeout": "36h"},
        {},
    ):  # fmt: skip
        yield "PATCH /services/{service}", request("PATCH", "/services/Greeter", json=change)
    yield (
        "PATCH /services/{service}",
        request("PATCH", "/services/SignUp", json={"workflow_completion_retention": "2d"}),
    )
    yield "GET /services/{service}", request("GET", "/services/Greeter")
    yield "GET /services/{service}/openapi", request("GET", "/services/No/openapi")
    patch = ("services", "config", "patch", "Greeter")
    yield "restate services config patch", call(*patch, "--inactivity-timeout", "5 minutes", "--public", "false")
    yield "restate services config view", call("services", "config", "view", "Greeter")
    yield "restate services config patch", call(*patch, "--public", "true")
    yield "restate services config patch", call(*patch, "--abort-timeout", "never", fails=True)
    yield "restate services config patch", call("services", "config", "patch", "No", "--public", "true", fails=True)


def state(editor: str) -> Iterator[Question]:
    """State by the command line."""

    patch = '[{"op": "replace", "path": "/count", "value": 7}]'
    yield "restate state patch", call("state", "patch", "Cart", "k", "-p", patch)
    yield "restate state get", once_stored("7", call("state", "get", "Cart", "k"))
    yield "restate state edit", call("state", "edit", "Cart", "k", EDITOR=editor, VISUAL=editor)
    yield "restate state get", once_stored("8", call("state", "get", "Cart", "k"))
    yield "restate state clear", call("state", "clear", "Cart/k")
    yield "restate state get", once_stored(None, call("state", "get", "Cart", "k"))
    yield "restate state get", call("state", "get", "No", "k")
    yield "restate state clear", call("state", "clear", "Cart/nothing", fails=True)


def once_stored(count: str | None, ask: Callable[[Side], Any]) -> Callable[[Side], Any]:
    """An answer once the state of the key `k` is this: what was accepted takes effect a little later."""

    def later(side: Side) -> Any:
        row = None if count is None else {"value_utf8": count}
        side.until("SELECT value_utf8 FROM state WHERE service_key = 'k'", row)
        return ask(side)

    return later


def steering() -> Iterator[Question]:
    """Invocations by the command line, by id and by target."""
    for verb, id, target in (
        ("pause", "{boom}", "Greeter/stuck"),
        ("resume", "{boom}", "Greeter/stuck"),
        ("cancel", "{waiter}", "Cart/busy"),
        ("kill", "{parent}", "Greeter/boom"),
        ("restart-as-new", "{refused}", "Cart/k"),
        ("purge", "{killed}", "SignUp/bob"),
    ):
        yield f"restate invocations {verb}", call("invocations", verb, id)
        yield f"restate invocations {verb}", call("invocations", verb, target)
    for verb, wrong in (
        ("pause", "{greeted}"),
        ("resume", "{greeted}"),
        ("cancel", "{greeted}"),
        ("kill", "{unknown}"),
        ("restart-as-new", "{ada}"),
        ("purge", "{ada}"),
    ):
        yield f"restate invocations {verb}", call("invocations", verb, wrong, fails=True)
        yield f"restate invocations {verb}", call("invocations", verb, "Greeter/nothing", fails=True)
    yield "restate deployments register", call("deployments", "register", "{endpoint}")
    yield "restate sql", call("sql", "SELECT * FROM nowhere", fails=True)
    yield "restate sql", call("sql", "DELETE FROM state", fails=True)
