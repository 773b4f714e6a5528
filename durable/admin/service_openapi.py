"""`GET /services/{service}/openapi`: how a service is invoked over HTTP, in Restate's form."""

from typing import Any

from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation, json
from durable.errors import NotFoundError
from durable.web.service_openapi import document_of


async def get_service_openapi(call: Call) -> Response:
    """An OpenAPI 3.1 document of the service's handlers, without the private ones."""
    name = call.path["service"]
    for view in await call.engine.services():
        if view.name == name:
            return json(document_of(view, call.admin.ingress_url))
    raise NotFoundError(f"The requested service '{name}' does not exist")


OPERATIONS = (
    Operation(
        method="GET", path="/services/{service}/openapi", run=get_service_openapi, tag="services",
        summary="Describe how a service is invoked", answers={
            200: Answer("OpenAPI 3.1.", dict[str, Any]), 404: Answer("There is no such service."),
        },
    ),
)  # fmt: skip
