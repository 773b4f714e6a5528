"""The OpenAPI document of a service: how its handlers are invoked through the ingress."""

import re
from typing import Any

from durable.core.duration import MAX_DAYS
from durable.views.services import HandlerView, ServiceView

_KEY = {
    "name": "key", "in": "path", "required": True,
    "schema": {"type": "string", "pattern": "^[^\\u0000]*$"},
    "description": "The key of the virtual object, or of the workflow, of up to 64 KiB; percent-encoded, it may have "
    "slashes, too.",
}  # fmt: skip
_IDEMPOTENCY = {
    "name": "idempotency-key", "in": "header", "required": False,
    "schema": {"type": "string", "pattern": "^[ -~]*[!-~][ -~]*$"},
    "description": "A repeated request with the same key is answered with the result of the first.",
}  # fmt: skip
_IDEMPOTENCY_IN_PATH = {
    "name": "idempotencyKey", "in": "path", "required": True,
    "schema": {"type": "string", "pattern": "^[^\\u0000]+$"},
    "description": "The idempotency key of the request whose result is asked for.",
}  # fmt: skip
_DELAY = {
    "name": "delay", "in": "query", "required": False,
    "schema": {"type": "string", "pattern": "^(0|[0-9]{1,6}(ms|s|m|h|d)|PT[0-9]{1,6}[HMS])$"},
    "description": f"How long to wait before it starts: 10s, 1h 30m, PT5M, 01:30:00; up to {MAX_DAYS} days. The "
    "pattern has only the simplest forms.",
}  # fmt: skip
_ID = {"x-restate-id": {"description": "The id of the invocation.", "schema": {"type": "string"}}}
_SOURCE = {
    "x-restate-error-source": {
        "description": "Whether the invocation failed, or the ingress refused the request.",
        "schema": {"enum": ["ingress", "invocation"]},
    }
}
_EXPIRES = {
    "idempotency-expires": {
        "description": "Until when this result is kept; only where it was there before.",
        "schema": {"type": "string", "format": "date-time"},
    }
}
_ACCEPTED = {
    "type": "object",
    "required": ["invocationId", "status"],
    "properties": {
        "invocationId": {"type": "string"},
        "status": {"enum": ["Accepted", "PreviouslyAccepted"]},
        "executionTime": {"type": "string"},
    },
}
_FAILED = {
    "type": "object",
    "required": ["code", "message", "source"],
    "properties": {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "source": {"enum": ["ingress", "invocation"]},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def document_of(view: ServiceView, ingress_url: str | None) -> dict[str, Any]:
    """How a service's public handlers are invoked, as OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    schemas = _Schemas()
    for handler in view.handlers:
        if not (view.public if handler.public is None else handler.public):
            continue
        keyed = "" if view.ty == "Service" else "/{key}"
        for way in ("call", "send"):
            path = f"/restate/{way}/{view.name}{keyed}/{handler.name}"
            paths[path] = {"post": _invocation(view, handler, way, schemas)}
        for way in ("attach", "output"):
            if handler.ty == "Workflow":
                paths[f"/restate/workflow/{view.name}/{{key}}/{way}"] = {"get": _result(view, handler, way, schemas)}
            elif view.ty != "Workflow":
                path = f"/restate/invocation/{view.name}{keyed}/{handler.name}/{{idempotencyKey}}/{way}"
                paths[path] = {"get": _result(view, handler, way, schemas)}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": view.name, "version": str(view.revision)},
        "paths": paths,
    }
    if schemas.components:
        document["components"] = {"schemas": schemas.components}
    if view.documentation:
        document["info"]["description"] = view.documentation
    if ingress_url is not None:
        document["servers"] = [{"url": ingress_url}]
    return document


class _Schemas:
    """The schemas of a document: what they have in common stands among its components."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._said: dict[str, Any] = {}

    def of(self, schema: dict[str, Any] | None, handler: str) -> dict[str, Any]:
        """A schema whose definitions are components. Two types of the same name stay two."""
        schema = dict(schema or {})
        definitions = schema.pop("$defs", {})
        names = {}
        for name, said in definitions.items():
            plain = _NO_NAME.sub("_", name)
            for wanted in (plain, *(f"{plain}.{handler}{'.' * number}" for number in range(len(self._said) + 1))):
                if self._said.setdefault(wanted, said) == said:
                    names[f"#/$defs/{name}"] = wanted
                    break
        for name, said in definitions.items():
            self.components[names[f"#/$defs/{name}"]] = _renamed(said, names)
        renamed: dict[str, Any] = _renamed(schema, names)
        return renamed


_NO_NAME = re.compile(r"[^a-zA-Z0-9._-]")


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """The same with references to components."""
    match schema:
        case dict():
            return {
                key: f"#/components/schemas/{names[value]}"
                if isinstance(value, str) and value in names
                else _renamed(value, names)
                for key, value in schema.items()
            }
        case list():
            return [_renamed(one, names) for one in schema]
    return schema


def _invocation(view: ServiceView, handler: HandlerView, way: str, schemas: _Schemas) -> dict[str, Any]:
    parameters = [] if view.ty == "Service" else [_KEY]
    if handler.ty != "Workflow":
        parameters.append(_IDEMPOTENCY)
    if way == "send":
        parameters.append(_DELAY)
        answers: dict[str, Any] = {"202": _content("Accepted: it cannot be lost any more.", _ACCEPTED, _ID)}
    else:
        answers = {"200": _success(handler, schemas)}
    answers["default"] = _content("It failed, or was refused.", _FAILED, {**_ID, **_SOURCE})
    described: dict[str, Any] = {
        "operationId": f"{way}-{handler.name}",
        "summary": f"{way} {view.name}/{handler.name}",
        "parameters": parameters,
        "responses": answers,
    }
    if handler.documentation:
        described["description"] = handler.documentation
    if handler.input_content_type:
        described["requestBody"] = {
            "required": not handler.input_optional,
            "content": {handler.input_content_type: {"schema": schemas.of(handler.input_json_schema, handler.name)}},
        }
    return described


def _result(view: ServiceView, handler: HandlerView, way: str, schemas: _Schemas) -> dict[str, Any]:
    """How the result of an invocation is asked for."""
    parameters = [] if view.ty == "Service" else [_KEY]
    if handler.ty != "Workflow":
        parameters.append(_IDEMPOTENCY_IN_PATH)
    answers = {
        "200": _success(handler, schemas),
        "404": _content("There is no such invocation.", _FAILED, {**_ID, **_SOURCE}),
    }
    if way == "output":
        answers["470"] = _content("It has not completed yet.", _FAILED, _SOURCE)
    answers["default"] = _content("It failed, or was refused.", _FAILED, {**_ID, **_SOURCE})
    return {
        "operationId": f"{way}-{handler.name}",
        "summary": f"{way} {view.name}/{handler.name}",
        "parameters": parameters,
        "responses": answers,
    }


def _success(handler: HandlerView, schemas: _Schemas) -> dict[str, Any]:
    if not handler.output_content_type:
        return {"description": "It has no result.", "headers": {**_ID, **_EXPIRES}}
    schema = schemas.of(handler.output_json_schema, handler.name)
    return _content("The result.", schema, {**_ID, **_EXPIRES}, handler.output_content_type)


def _content(
    description: str, schema: dict[str, Any], headers: dict[str, Any], media: str = "application/json"
) -> dict[str, Any]:
    return {"description": description, "headers": headers, "content": {media: {"schema": schema}}}
