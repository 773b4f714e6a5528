"""R-16: what schemathesis makes up from the OpenAPI document is answered as that says, and never with a 500."""

from typing import Any

import pytest
import schemathesis

from durable.admin.app import ROUTES
from durable.admin.openapi import openapi_document
from tests.admin.fuzzed import Answers, ask_one, document, tell_stories


def operations(described: Any) -> dict[str, Any]:
    found = [one.ok() for one in described.get_all_operations()]
    return {one.definition.raw["operationId"]: one for one in found}


OPERATIONS = operations(document())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_answers_as_the_document_says(name: str) -> None:
    answers = Answers()
    ask_one(OPERATIONS[name], 6, answers)
    assert sum(answers.values()) >= 1


def test_a_story_goes_along_the_links_of_the_document() -> None:
    answers = tell_stories(stories=40, steps=12)
    ids = {one.id for one in ROUTES.operations if "id" in one.parts}
    assert answers["start_invocation", 202] > 5
    done = {name for (name, status), count in answers.items() if name in ids and status < 300}
    assert len(done) >= 3, "an id that one answer names was asked for, and was there"


def test_every_id_that_is_answered_leads_somewhere() -> None:
    paths = openapi_document(ROUTES.operations)["paths"]
    started = paths["/invocations"]["post"]["responses"]["202"]["links"]
    assert {path for path in paths if "{id}" in path} == {one.path for one in ROUTES.operations if one.id in started}
    assert started["get_journal"]["parameters"] == {"id": "$response.body#/invocation_id"}
    handlers = paths["/services/{service}/handlers"]["get"]["responses"]["200"]["links"]
    assert handlers["get_handler"]["parameters"] == {
        "service": "$request.path.service", "handler": "$response.body#/handlers/0/name",
    }  # fmt: skip
    pages = paths["/invocations"]["get"]["responses"]["200"]["links"]
    assert pages["list_invocations"]["parameters"] == {"cursor": "$response.body#/next"}


@pytest.mark.parametrize(
    ("path", "lie"),
    [
        (
            "/services",
            {"responses": {"200": {"description": "", "content": {"application/json": {"schema": False}}}}},
        ),
        ("/services", {"responses": {"404": {"description": ""}}}),
        ("/services", {"responses": {"200": {"description": "", "content": {"text/plain": {}}}}}),
        ("/deployments", {"responses": {"200": {"description": ""}}}),
    ],
)
def test_a_document_that_lies_is_found(path: str, lie: dict[str, Any]) -> None:
    """R-44."""
    truth = openapi_document(ROUTES.operations)
    method = "post" if path == "/deployments" else "get"
    truth["paths"] = {path: {method: truth["paths"][path][method] | lie}}
    [operation] = operations(schemathesis.openapi.from_dict(truth)).values()
    with pytest.raises(BaseExceptionGroup):
        ask_one(operation, 2, Answers())
