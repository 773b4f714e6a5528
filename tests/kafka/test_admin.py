"""Subscriptions and Kafka clusters over the admin API, and what is refused, in Restate's order and words."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import ConflictError, Engine, InvalidRequestError, UsageError, Workflow, WorkflowContext, handler
from durable.admin import create_app
from durable.context import Context
from tests.kafka.support import EARLIEST, Broker, cluster_of, produce, taken, until
from tests.kafka.test_reading import Counter, echo

pytestmark = pytest.mark.anyio
#: Nobody listens there.
NOWHERE = {"bootstrap.servers": "127.0.0.1:1"}
SINK = "service://Counter/add"
UNKNOWN = "sub_11XHoawrCiWtv8kzhEyGtsR"


@handler(service="Inside", public=False)
async def inside(ctx: Context) -> None: ...


class Run(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> None: ...


@asynccontextmanager
async def served(path: Any = ":memory:", **options: Any) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    clusters = {"main": {**NOWHERE, "sasl.password": "s3cret", "group.id": "of the cluster"}, "other": NOWHERE}
    engine = Engine(path, services=[Counter(), echo, inside, Run()], **{"kafka_clusters": clusters, **options})
    transport = httpx.ASGITransport(create_app(engine))
    async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost:9070") as http:
        yield engine, http


async def test_a_subscription_is_created_listed_and_deleted() -> None:
    async with served() as (_, http):
        body = {"source": "kafka://other/a.topic", "sink": SINK, "options": {"auto.offset.reset": "earliest"}}
        created = await http.post("/subscriptions", json=body)
        assert created.status_code == 201
        one = created.json()
        assert created.headers["location"] == f"subscriptions/{one['id']}"
        assert (one["source"], one["sink"], one["state"]) == ("kafka://other/a.topic", SINK, "starting")
        holds = {"auto.offset.reset": "earliest", "client.id": "restate", "group.id": one["id"]}
        assert one["options"] == holds
        workflow = {"source": "kafka://main/t", "sink": "service://Run/run"}
        other = (await http.post("/v3/subscriptions", json=workflow)).json()
        assert other["options"] == {"client.id": "restate", "group.id": "of the cluster"}

        async def ids(**wanted: str) -> list[str]:
            listed = (await http.get("/subscriptions", params=wanted)).json()["subscriptions"]
            return [one["id"] for one in listed]

        assert await ids() == [one["id"], other["id"]]
        assert await ids(source="kafka://main/t") == [other["id"]]
        assert await ids(sink=SINK) == [one["id"]]
        assert await ids(sink=SINK, source="kafka://main/t") == []
        shown = (await http.get(f"/subscriptions/{one['id']}")).json()
        assert shown["options"] == holds
        assert (await http.delete(f"/subscriptions/{one['id']}")).status_code == 202
        assert (await http.delete(f"/subscriptions/{one['id']}")).status_code == 404
        assert await ids() == [other["id"]]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({}, 422, None, "source"),
        ({"source": 1, "sink": SINK}, 422, None, "source"),
        ({"source": "t", "sink": "x"}, 400, "META0009", "supported schemes: [kafka]."),
        ({"source": "kafka://no/t", "sink": "x"}, 400, "META0009", "supported schemes: [service]."),
        ({"source": "kafka://no/t", "sink": "service://No/add"}, 400, "META0009", "cannot find service/handler"),
        ({"source": "kafka://no/t", "sink": "service://Counter/$patch-state"}, 400, "META0009", "cannot find"),
        ({"source": "kafka://no/t", "sink": "service://Inside/inside"}, 400, "META0009", "not public"),
        ({"source": "kafka://main", "sink": SINK}, 400, "META0009", "a cluster and a topic"),
        ({"source": "kafka://main/", "sink": SINK}, 400, "META0009", "a cluster and a topic"),
        ({"source": "kafka:///t", "sink": SINK}, 400, "META0009", "a cluster and a topic"),
        *(
            (
                {"source": f"kafka://main/{topic}", "sink": SINK},
                400,
                "META0009",
                "the name of a topic has at most 249",
            )
            for topic in ("t" * 250, ".", "..", "a/b", "/", "a b", "a?b", "a?", "a#", "ä", "a%20b", "a\nb")
        ),
        ({"source": "kafka://no/t", "sink": f"{SINK}?x=1"}, 400, "META0009", "cannot find service/handler"),
        (
            {"source": "kafka://no/t", "sink": SINK, "options": {"no": "no"}},
            400,
            None,
            "Kafka cluster 'no' not found. Available clusters: [main, other]",
        ),
        ({"source": "kafka://main/t", "sink": SINK, "options": {"no.such": "x"}}, 400, None, "no.such"),
        ({"source": "kafka://main/t", "sink": SINK, "options": {"no.such": "x"}}, 400, None, "session.timeout.ms"),
        ({"source": "kafka://main/t", "sink": SINK, "options": {"fetch.min.bytes": "-1"}}, 400, None, "an integer"),
        ({"source": "kafka://main/t", "sink": SINK, "options": {"oauth_cb": "x"}}, 400, None, "oauth_cb"),
        ({"source": "kafka://main/t", "sink": SINK, "options": {"sasl.password": "s3cret"}}, 400, None, "in clear"),
        (
            {"source": "kafka://main/t", "sink": SINK, "options": {"sasl.password": "${env:HOME}"}},
            400,
            None,
            "begin with KAFKA_",
        ),
        (
            {"source": "kafka://main/t", "sink": SINK, "options": {"sasl.password": "${file:/run/secrets/../x}"}},
            400,
            None,
            "/run/secrets/",
        ),
    ],
)
async def test_what_cannot_be_subscribed_to_is_refused_in_order(
    body: Any, status: int, code: str | None, words: str
) -> None:
    async with served() as (engine, http):
        answer = await http.post("/subscriptions", json=body)
        told = answer.json()
        assert (answer.status_code, told.get("restate_code")) == (status, code), told
        assert words in told["message"] and "s3cret" not in told["message"]
        assert told["message"].startswith("[META0009] ") == (code is not None)
        assert await engine.subscriptions() == []


@pytest.mark.parametrize("topic", ["t" * 249, "...", "a.b_c-D9", "-"])
async def test_every_name_that_a_topic_can_have_is_accepted(topic: str) -> None:
    async with served() as (_, http):
        answer = await http.post("/subscriptions", json={"source": f"kafka://main/{topic}", "sink": SINK})
        assert (answer.status_code, answer.json()["source"]) == (201, f"kafka://main/{topic}")


async def test_ids_are_looked_at() -> None:
    async with served() as (_, http):
        assert (await http.get(f"/subscriptions/{UNKNOWN}")).status_code == 404
        assert (await http.get("/subscriptions/sub_1")).status_code == 400
        assert (await http.patch(f"/subscriptions/{UNKNOWN}/pause")).status_code == 404
        assert (await http.patch(f"/subscriptions/{UNKNOWN}/resume?position=nowhere")).status_code == 400


async def test_a_subscription_is_paused_and_resumed() -> None:
    async with served() as (_, http):
        body = {"source": "kafka://other/t", "sink": SINK}
        id = (await http.post("/subscriptions", json=body)).json()["id"]

        async def state() -> str:
            return str((await http.get(f"/subscriptions/{id}")).json()["state"])

        assert (await http.patch(f"/subscriptions/{id}/pause")).status_code == 200
        assert await state() == "paused"
        assert (await http.patch(f"/subscriptions/{id}/resume?position=earliest")).status_code == 200
        assert await state() != "paused"


async def test_kafka_clusters_are_added_changed_and_deleted(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"
    secret = {"sasl.password": "${env:KAFKA_PASSWORD}", "sasl.username": "u"}
    async with served(path) as (_, http):
        body = {"name": "new.cluster", "properties": {**NOWHERE, **secret}}
        created = await http.post("/kafka-clusters", json=body)
        assert created.status_code == 201 and created.headers["location"] == "kafka-clusters/new.cluster"
        assert created.json()["properties"] == {**NOWHERE, **secret}
        assert (await http.post("/kafka-clusters", json=body)).status_code == 409
        assert (await http.post("/kafka-clusters", json={**body, "name": "main"})).status_code == 409
        assert (await http.post("/kafka-clusters", json={**body, "name": "a b"})).status_code == 422
        missing = await http.post("/kafka-clusters", json={"name": "x", "properties": {}})
        assert missing.status_code == 400 and "bootstrap.servers" in missing.json()["message"]
        id = (await http.post("/subscriptions", json={"source": "kafka://new.cluster/t", "sink": SINK})).json()["id"]
    async with served(path) as (engine, http):  # they are kept
        names = [one["name"] for one in (await http.get("/kafka-clusters")).json()["clusters"]]
        assert names == ["main", "new.cluster", "other"]
        shown = (await http.get("/kafka-clusters/new.cluster?include_subscriptions=true")).json()
        assert ([one["id"] for one in shown["subscriptions"]], shown["from_code"]) == ([id], False)
        assert (await http.get("/kafka-clusters/main")).json()["properties"]["sasl.password"] == "***"
        assert (await http.get("/kafka-clusters/none")).status_code == 404
        changed = await http.patch("/kafka-clusters/new.cluster", json={"properties": NOWHERE})
        assert changed.json()["properties"] == NOWHERE
        assert (await http.patch("/kafka-clusters/new.cluster", json={"properties": {}})).status_code == 400
        assert (await http.patch("/kafka-clusters/main", json={"properties": NOWHERE})).status_code == 409
        assert (await http.delete("/kafka-clusters/new.cluster")).status_code == 409
        assert (await http.delete("/kafka-clusters/new.cluster?force=true")).status_code == 202
        assert (await http.delete("/kafka-clusters/new.cluster")).status_code == 404

        async def waits() -> bool:
            return (await engine.subscription(id)).reason == "no-cluster"

        await until(waits)
    assert "s3cret" not in path.read_bytes().decode(errors="replace")


async def test_changing_a_cluster_connects_its_subscriptions_anew(broker: Broker, topic: str) -> None:
    async with served() as (engine, http):
        await http.post("/kafka-clusters", json={"name": "new", "properties": NOWHERE})
        id = (await engine.subscribe(f"kafka://new/{topic}", Counter.add, EARLIEST)).id
        produce(broker, topic, [(b"k", b"1")])

        async def retries() -> bool:
            return (await engine.subscription(id)).state == "retrying"

        await until(retries)
        assert (await http.patch("/kafka-clusters/new", json={"properties": cluster_of(broker)})).status_code == 200
        await taken(engine, id, 1)


async def test_invocations_say_which_subscription_they_are_from(broker: Broker, topic: str) -> None:
    async with served(kafka_clusters={"main": cluster_of(broker)}) as (engine, http):
        id = (await engine.subscribe(f"kafka://main/{topic}", "service://Plain/echo", EARLIEST)).id
        produce(broker, topic, [(b"k", b"1")])
        await taken(engine, id, 1)
        [listed] = (await http.get("/invocations", params={"subscription": id})).json()["invocations"]
        assert (listed["invoked_by"], listed["invoked_by_id"]) == ("subscription", id)


async def test_sql_says_so_too(broker: Broker, topic: str, tmp_path: Path) -> None:
    async with served(tmp_path / "durable.db", kafka_clusters={"main": cluster_of(broker)}) as (engine, http):
        id = (await engine.subscribe(f"kafka://main/{topic}", "service://Plain/echo", EARLIEST)).id
        produce(broker, topic, [(b"k", b"1")])
        await taken(engine, id, 1)
        sql = "SELECT invoked_by, invoked_by_id, invoked_by_subscription_id FROM sys_invocation"
        answer = await http.post("/query", json={"query": sql}, headers={"accept": "application/json"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] == [
            {"invoked_by": "subscription", "invoked_by_id": id, "invoked_by_subscription_id": id}
        ]


@pytest.mark.parametrize(
    "clusters",
    [["main"], {"main": 1}, {"a b": NOWHERE}, {"main": {}}, {"main": {**NOWHERE, "no.such": "x"}}, {1: NOWHERE}],
)
async def test_clusters_that_cannot_be_are_refused_when_the_engine_is_made(clusters: Any) -> None:
    with pytest.raises(UsageError):
        Engine(":memory:", services=[echo], kafka_clusters=clusters)


async def test_the_engine_refuses_as_the_admin_api_does() -> None:
    async with served() as (engine, _):
        with pytest.raises(InvalidRequestError):
            await engine.subscribe("kafka://main/t", SINK, options={"a": 1})  # type: ignore[dict-item]
        with pytest.raises(InvalidRequestError):
            await engine.subscribe(None, SINK)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError):
            await engine.resume_subscription(UNKNOWN, position="middle")  # type: ignore[arg-type]
        with pytest.raises(ConflictError):
            await engine.add_kafka_cluster("main", NOWHERE)


async def test_secrets_are_not_kept_logged_or_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    path = tmp_path / "durable.db"
    async with served(path) as (engine, http):
        await engine.subscribe("kafka://main/t", SINK)
        await asyncio.sleep(0.3)
        texts = [repr(await engine.subscriptions()), repr(await engine.kafka_clusters())]
        texts += [(await http.get(one)).text for one in ("/subscriptions", "/kafka-clusters", "/kafka-clusters/main")]
    with sqlite3.connect(path) as database:
        texts.append("\n".join(database.iterdump()))
    database.close()
    assert "s3cret" not in caplog.text + "".join(texts)
