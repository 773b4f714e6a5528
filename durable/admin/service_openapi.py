"""`GET /services/{service}/openapi`: how a service is invoked over HTTP, in Restate's form."""

from typing import Any

from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation, json
from durable.errors import NotFoundError
from durable.views.services import HandlerView, ServiceView

_KEY = {
    "name": "key", "in": "path", "required": True, "schema": {"type": "string"},
    "description": "The key of the virtual object, or of the workflow.",
}  # fmt: skip
_IDEMPOTENCY = {
    "name": "idempotency-key", "in": "header", "required": False, "schema": {"type": "string"},
    "description": "A repeated request with the same key is answered with the result of the first.",
}  # fmt: skip
_DELAY = {
    "name": "delay", "in": "query", "required": False, "schema": {"type": "string"},
    "description": "How long to wait before it starts: 10s, 1h 30m, PT5M.",
}  # fmt: skip
_ACCEPTED = {
    "type": "object",
    "required": ["invocationId", "status"],
    "properties": {
        "invocationId": {"type": "string"},
        "status": {"enum": ["Accepted", "PreviouslyAccepted"]},
        "executionTime": {"type": "string", "format": "date-time"},
    },
}
_FAILED = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string"}, "code": {"type": "integer"}, "metadata": {"type": "object"}},
}


async def get_service_openapi(call: Call) -> Response:
    """An OpenAPI 3.1 document of the service's handlers, without the private ones."""
    name = call.path["service"]
    for view in await call.engine.services():
        if view.name == name:
            return json(service_document(view, call.admin.ingress_url))
    raise NotFoundError(f"The requested service '{name}' does not exist")


def service_document(view: ServiceView, ingress_url: str | None) -> dict[str, Any]:
    """How a service is invoked."""
    paths: dict[str, Any] = {}
    for handler in view.handlers:
        if not (view.public if handler.public is None else handler.public):
            continue
        keyed = "" if view.ty == "Service" else "/{key}"
        for way in ("call", "send"):
            path = f"/restate/{way}/{view.name}{keyed}/{handler.name}"
            paths[path] = {"post": _invocation(view, handler, way)}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": view.name, "version": str(view.revision)},
        "paths": paths,
    }
    if view.documentation:
        document["info"]["description"] = view.documentation
    if ingress_url is not None:
        document["servers"] = [{"url": ingress_url}]
    return document


def _invocation(view: ServiceView, handler: HandlerView, way: str) -> dict[str, Any]:
    parameters = [] if view.ty == "Service" else [_KEY]
    if handler.ty != "Workflow":
        parameters.append(_IDEMPOTENCY)
    if way == "send":
        parameters.append(_DELAY)
        answers: dict[str, Any] = {"202": _content("Accepted: it cannot be lost any more.", _ACCEPTED)}
    elif handler.output_content_type:
        answers = {"200": _content("The result.", handler.output_json_schema or {}, handler.output_content_type)}
    else:
        answers = {"200": {"description": "It has no result."}}
    answers["default"] = _content("It failed, or was refused.", _FAILED)
    described: dict[str, Any] = {
        "operationId": f"{way}-{handler.name}",
        "summary": f"{way} {view.name}/{handler.name}",
        "parameters": parameters,
        "responses": answers,
    }
    if handler.documentation:
        described["description"] = handler.documentation
    if handler.input_content_type:
        schema = handler.input_json_schema or {}
        described["requestBody"] = {
            "required": "default" not in schema,
            "content": {handler.input_content_type: {"schema": schema}},
        }
    return described


def _content(description: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media: {"schema": schema}}}


OPERATIONS = (
    Operation(
        method="GET", path="/services/{service}/openapi", run=get_service_openapi, tag="services",
        summary="Describe how a service is invoked", answers={
            200: Answer("OpenAPI 3.1.", dict[str, Any]), 404: Answer("There is no such service."),
        },
    ),
)  # fmt: skip
