"""The OpenAPI documents say what is done, and nothing else."""

import re
from typing import Any

from durable.admin.app import ROUTES
from tests.admin.support import Served, story


def test_every_operation_is_described() -> None:
    async def tell(admin: Served) -> None:
        document = (await admin.http.get("/v4/openapi")).json()
        assert document["openapi"] == "3.1.0"
        described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        assert described == {(one.method, one.path) for one in ROUTES.operations}
        ids = [item["operationId"] for path in document["paths"].values() for item in path.values()]
        assert len(set(ids)) == len(ids), "links name operations by these"
        names = set(re.findall(r'"#/components/schemas/([^"]+)"', (await admin.http.get("/openapi")).text))
        assert names <= set(document["components"]["schemas"])

    story(tell)


def test_every_parameter_of_a_path_and_query_is_described() -> None:
    async def tell(admin: Served) -> None:
        document = (await admin.http.get("/openapi")).json()
        listing = document["paths"]["/invocations"]["get"]
        names = {parameter["name"] for parameter in listing["parameters"]}
        assert {"service", "status", "failure", "parent", "cursor", "limit", "counts"} <= names
        restart = document["paths"]["/invocations/{id}/restart-as-new"]["patch"]
        named = [parameter["name"] for parameter in restart["parameters"]]
        assert named == ["id", "dry_run", "from", "deployment", "idempotency-key"]
        for path, item in document["paths"].items():
            for operation in item.values():
                inside = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
                assert inside == re.findall(r"\{(\w+)\}", path)

    story(tell)


def test_a_services_document_has_its_public_handlers() -> None:
    async def tell(admin: Served) -> None:
        document: dict[str, Any] = (await admin.http.get("/services/Greeter/openapi")).json()
        assert document["servers"] == [{"url": "https://api.example.com"}]
        call = document["paths"]["/restate/call/Greeter/greet"]["post"]
        assert call["description"] == "Say hello."
        assert call["requestBody"]["content"] == {"application/json": {"schema": {"type": "string"}}}
        assert call["responses"]["200"]["content"] == {"application/json": {"schema": {"type": "string"}}}
        send = document["paths"]["/restate/send/Greeter/greet"]["post"]
        assert [one["name"] for one in send["parameters"]] == ["idempotency-key", "delay"]
        assert "requestBody" not in document["paths"]["/restate/call/Greeter/wait"]["post"]
        keyed = (await admin.http.get("/services/Cart/openapi")).json()
        [first, *_] = keyed["paths"]["/restate/call/Cart/{key}/add"]["post"]["parameters"]
        assert (first["name"], first["in"]) == ("key", "path")
        assert (await admin.http.get("/services/No/openapi")).status_code == 404
        await admin.patch("/services/Greeter", {"public": False})
        assert (await admin.http.get("/services/Greeter/openapi")).json()["paths"] == {}

    story(tell, ingress_url="https://api.example.com")
