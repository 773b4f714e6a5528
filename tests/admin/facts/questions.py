"""What both sides are asked: requests to the admin API, statements, and calls of the command line."""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from tests.admin.facts import printed
from tests.admin.facts.sides import Side

#: How it is named in the table, and what asks it.
Question = tuple[str, Callable[[Side], Any]]
SERVICES = ("Greeter", "Cart", "SignUp", "Quiet")


def prepare(side: Side) -> None:
    """Bring a side into every state, by the same means."""
    side.start("greeted", "Greeter/greet", "you", idempotency_key="once")
    side.start("refused", "Greeter/refuse")
    side.start("boom", "Greeter/boom")
    side.start("stuck", "Greeter/stuck")
    side.start("stopped", "Greeter/stop")
    side.start("sleeper", "Greeter/sleeper")
    side.start("parent", "Greeter/parent")
    for target, label in (("Greeter/greet", "child"), ("Greeter/sleeper", "second"), ("Cart/later/add", "sent")):
        statement = (
            f"SELECT id FROM sys_invocation WHERE invoked_by_id = '{side.ids['parent']}' AND target = '{target}'"
        )
        side.ids[label] = side.row(statement)["id"]
    side.start("waiter", "Greeter/waiter")
    side.start("nap", "Quiet/nap")
    side.start("added", "Cart/k/add", 3)
    side.start("hold", "Cart/busy/hold")
    side.reaches("running", "hold")
    side.start("behind", "Cart/busy/add", 1)
    side.start("scheduled", "Greeter/greet", "late", delay="1h")
    side.start("ada", "SignUp/ada/run", "Ada")
    side.start("bob", "SignUp/bob/run", "Bob")
    side.reaches("running", "bob")
    side.start("answer", "SignUp/bob/answer", "yes")
    for verb in ("kill", "cancel"):
        side.start(f"{verb}ed", "Greeter/sleeper")
        side.records(f"{verb}ed", 2)
        side.http.patch(f"/invocations/{side.ids[f'{verb}ed']}/{verb}").raise_for_status()
    side.reaches("completed", "greeted", "refused", "added", "bob", "answer", "killed", "canceled")
    side.reaches("backing-off", "boom", "stuck")
    side.reaches("paused", "stopped")
    side.reaches("suspended", "nap")
    side.reaches("running", "sleeper", "parent", "second", "waiter", "hold", "ada")
    side.settles()


def filled(text: str, side: Side) -> str:
    """A text with ids in the place of labels in braces."""
    names = {**side.ids, "unknown": "inv_1" + "0" * 33, "deployment": side.deployment, "endpoint": side.endpoint}
    return _LABEL.sub(lambda label: names[label[1]], text)


def request(method: str, path: str, **options: Any) -> Callable[[Side], Any]:
    """One request; `{label}` in its path and its JSON is the id of an invocation."""

    def ask(side: Side) -> Any:
        given = dict(options)
        if "json" in given:
            given["content"] = filled(json.dumps(given.pop("json")), side)
            given["headers"] = {"content-type": "application/json", **given.get("headers", {})}
        answer = side.http.request(method, filled(path, side), **given)
        kind = answer.headers.get("content-type", "none").partition(";")[0]
        found: dict[str, Any] = {"status": answer.status_code, "type": kind}
        if answer.content:
            found["body"] = answer.json() if kind == "application/json" else answer.text
        return found

    return ask


_LABEL = re.compile(r"\{([a-z][^{}\"]*)\}")


def requests() -> Iterator[Question]:
    """What changes nothing."""
    for asked, path in (
        ("GET /health", "/health"),
        ("GET /version", "/version"),
        ("GET /services", "/services"),
        ("GET /services of an unknown one", "/services/No"),
        ("GET /services of an unknown one", "/services/No/handlers"),
        ("GET /services of an unknown one", "/services/No/handlers/no"),
        ("GET /services/Greeter/handlers of an unknown one", "/services/Greeter/handlers/no"),
        ("GET /deployments", "/deployments"),
        ("GET /deployments/{deployment}", "/deployments/{deployment}"),
        ("GET /deployments of an unknown one", "/deployments/dp_11nGQpCRmau6ypL82KH2TnP"),
        ("GET /deployments of a malformed id", "/deployments/no"),
        ("GET /subscriptions", "/subscriptions"),
        ("GET /subscriptions of an unknown one", "/subscriptions/sub_11XHoawrCiWtv8kzhEyGtsR"),
        ("GET /kafka-clusters", "/kafka-clusters"),
        ("GET /kafka-clusters of an unknown one", "/kafka-clusters/no"),
        ("GET /cluster-health", "/cluster-health"),
        ("GET an unknown route", "/nowhere"),
        ("GET an unknown version", "/v9/services"),
        ("GET a wrong method", "/query"),
        ("GET /services with an unknown parameter", "/services?no=1"),
    ):
        yield asked, request("GET", path)
    for service in SERVICES:
        for prefix in ("", "/v2", "/v3", "/v4"):
            yield "GET /services/{service}", request("GET", f"{prefix}/services/{service}")
        yield "GET /services/{service}/handlers", request("GET", f"/services/{service}/handlers")
        yield "GET /services/{service}/openapi", operations_of(service)
    for service, handler in (("Greeter", "greet"), ("Cart", "add"), ("SignUp", "run"), ("Quiet", "odd")):
        yield "GET /services/{service}/handlers/{handler}", request("GET", f"/services/{service}/handlers/{handler}")


def operations_of(service: str) -> Callable[[Side], Any]:
    """Of an OpenAPI document, what can be asked: paths, bodies, answers. Descriptions and references are left out."""

    def ask(side: Side) -> Any:
        document = side.http.get(f"/services/{service}/openapi").json()
        return {
            "openapi": document["openapi"],
            "title": document["info"]["title"],
            "version": document["info"]["version"],
            **{
                f"{method.upper()} {path}": {
                    "takes": schema_of(document, operation.get("requestBody", {})),
                    "gives": schema_of(document, operation["responses"].get("200", {})),
                    "statuses": ", ".join(sorted(operation["responses"])),
                }
                for path, operations in document["paths"].items()
                for method, operation in operations.items()
                if method != "parameters"
            },
        }

    return ask


def schema_of(document: Any, body: Any) -> Any:
    """What a JSON body looks like, without references."""
    schema = body.get("content", {}).get("application/json", {}).get("schema")
    if schema is not None and "$ref" in schema:
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def statements() -> Iterator[Question]:
    """SQL over the tables, in both forms of answers."""

    def rows(statement: str) -> Callable[[Side], Any]:
        return lambda side: side.rows(filled(statement, side))

    def keyed(table: str) -> Callable[[Side], Any]:
        return lambda side: {f"{row['service_key']}/{row['key']}": row for row in side.rows(f"SELECT * FROM {table}")}

    for table in (
        "sys_invocation", "sys_invocation_status", "sys_invocation_state", "sys_journal", "sys_journal_events",
        "sys_inbox", "sys_keyed_service_status", "sys_promise", "state", "sys_service", "sys_deployment", "sys_locks",
        "sys_rules", "sys_user_limits", "sys_vqueues", "sys_scheduler",
    ):  # fmt: skip
        yield (
            f"columns of {table}",
            rows(f"SELECT column_name, data_type FROM information_schema.columns WHERE table_name = '{table}'"),
        )
        if table in ("sys_promise", "state"):
            yield f"rows of {table}", keyed(table)
        elif table not in ("sys_journal", "sys_journal_events", "sys_vqueues", "sys_scheduler"):
            yield f"rows of {table}", rows(f"SELECT * FROM {table}")
    for label in (
        "greeted", "refused", "stuck", "parent", "waiter", "nap", "added", "bob", "answer", "killed", "canceled",
    ):  # fmt: skip
        yield "rows of sys_journal", journal(label)
    yield "POST /query in Arrow", arrow
    for label in ("stuck", "stopped"):
        yield "rows of sys_journal_events", rows(f"SELECT * FROM sys_journal_events WHERE id = '{{{label}}}'")


def arrow(side: Side) -> Any:
    """The types of an answer in Arrow's form."""
    statement = "SELECT id, created_at, completion_retention, journal_size, completion_result FROM sys_invocation"
    answer = side.http.post("/query", json={"query": statement})
    schema = pa.ipc.open_stream(io.BytesIO(answer.content)).schema
    types = {field.name: str(field.type) for field in schema}
    return {"status": answer.status_code, "type": answer.headers["content-type"], **types}


def journal(label: str) -> Callable[[Side], Any]:
    """A journal by what its entries are."""

    def ask(side: Side) -> Any:
        found = printed.Ordered()
        for row in side.rows(f"SELECT * FROM sys_journal WHERE id = '{side.ids[label]}' ORDER BY index"):
            printed.add(found, f"{row['entry_type']}", row)
        return found

    return ask


def call(*arguments: str, fails: bool = False, **environment: str) -> Callable[[Side], Any]:
    """One call of the command line; `{label}` in its arguments is the id of an invocation.

    `fails` is whether it does so with Restate's own server: a call with a slip in it would fail alike on both sides.
    """

    def ask(side: Side) -> Any:
        status, told = side.cli.run(*(filled(argument, side) for argument in arguments), **environment)
        assert side.name == "ours" or (status != 0) is fails, f"{arguments}: {told}"
        return {"status": status, **printed.read(told)}

    return ask


def calls() -> Iterator[Question]:
    """Calls of the command line that change nothing."""

    yield "restate services list", call("services", "list")
    yield "restate services list", call("services", "list", "--extra")
    yield "restate services describe", call("services", "describe", "Cart")
    yield "restate services status", call("services", "status", "--locked-key-held-threshold-second", "600")
    yield "restate services config view", call("services", "config", "view", "Quiet")
    yield "restate services config view", call("services", "config", "view", "SignUp")
    for label in (
        "greeted", "refused", "stuck", "stopped", "parent", "waiter", "nap", "added", "scheduled", "ada", "killed",
    ):  # fmt: skip
        yield "restate invocations describe", call("invocations", "describe", f"{{{label}}}")
    yield "restate invocations describe", call("invocations", "describe", "{unknown}", fails=True)
    for filters in (
        (), ("--all",), ("--service", "Cart"), ("--handler", "boom"), ("--status", "backing-off"),
        ("--status", "scheduled,pending"), ("--key", "busy"), ("--virtual-objects-only",),
        ("--completion-result", "success"), ("--completion-result", "failure"), ("--deployment", "{deployment}"),
        ("--zombie",), ("--limit", "2", "--oldest-first", "--all"),
    ):  # fmt: skip
        yield "restate invocations list", call("invocations", "list", *filters)
    yield "restate state get", call("state", "get", "Cart", "k")
    yield "restate state get", call("state", "get", "Cart", "k", "--plain")
    yield "restate sql", call("sql", "SELECT id, target, status FROM sys_invocation ORDER BY target, created_at")
    yield "restate sql", call("sql", "--json", "SELECT name, revision, public, ty FROM sys_service ORDER BY name")
    yield "restate deployments list", call("deployments", "list")
    yield "restate deployments describe", call("deployments", "describe", "{deployment}")
    yield "restate subscriptions list", call("subscriptions", "list")
    yield "restate whoami", call("whoami")
