"""The OpenAPI documents: of this API, written from its operations, and of what a service can be asked over HTTP."""

from collections.abc import Iterable, Sequence
from functools import cache
from inspect import cleandoc
from typing import Any

import msgspec
from starlette.responses import Response

from durable.admin.errors import Problem
from durable.admin.operations import Answer, Call, Operation, json
from durable.admin.wire import DEPLOYMENT_ID, INVOCATION_ID, SUBSCRIPTION_ID
from durable.release import package_version

_REFS = "#/components/schemas/{name}"
#: What a part of a path can be; an id has a form of its own.
_PARTS = {
    "id": {"type": "string", "pattern": INVOCATION_ID},
    "deployment": {"type": "string", "pattern": DEPLOYMENT_ID},
    "subscription": {"type": "string", "pattern": SUBSCRIPTION_ID},
}
_PART = {"type": "string", "minLength": 1, "pattern": r"^[^/\u0000-\u001f\u007f]+$"}
#: What any operation may answer before, or instead of, doing anything.
_EVERYWHERE = {
    400: Answer("It cannot be read, or makes no sense."),
    401: Answer("The bearer token is missing or wrong."),
    403: Answer("Not allowed."),
    413: Answer("The body is too long."),
    414: Answer("Path and query are too long."),
    421: Answer("This name is not served here."),
    431: Answer("The headers are too long."),
    503: Answer("The engine does not run, or has failed."),
}
_WITH_BODY = {
    415: Answer("The body is not JSON."),
    422: Answer("The body is JSON, but does not fit."),
}


#: The header that makes something take effect once.
_IDEMPOTENCY: dict[str, Any] = {
    "name": "idempotency-key", "in": "header", "required": False,
    "schema": {"type": "string", "pattern": "^[ -~]*[!-~][ -~]*$"},
    "description": "Asked again with the same key, it is not done again, and the answer is the one that it had.",
}  # fmt: skip


def openapi_operation(operations: Iterable[Operation]) -> Operation:
    """`GET /openapi`, describing these and itself."""
    described: list[Operation] = []

    @cache
    def document() -> dict[str, Any]:
        return openapi_document(described)

    async def get_openapi(call: Call) -> Response:
        """This document."""
        return json(document())

    itself = Operation(
        method="GET", path="/openapi", run=get_openapi, tag="engine", summary="This document",
        answers={200: Answer("OpenAPI 3.1.", dict[str, Any])},
    )  # fmt: skip
    described += [*operations, itself]
    return itself


def openapi_document(operations: Iterable[Operation]) -> dict[str, Any]:
    """What these operations take and answer."""
    operations = list(operations)
    bodies = [one.body for one in operations if one.body is not None]
    answers = [answer.body for one in operations for answer in one.answers.values() if answer.body is not None]
    kinds = list(dict.fromkeys([Problem, *bodies, *answers]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFS)
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, by_kind, operations)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "durable admin API",
            "version": package_version(),
            "description": "See and steer a durable engine. Every path also answers under /v2, /v3 and /v4.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _operation(one: Operation, by_kind: dict[Any, Any], operations: Sequence[Operation]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _PARTS.get(name, _PART)} for name in one.parts
    ]
    if one.query is not None:
        parameters += _query_parameters(one.query)
    if one.once:
        parameters.append(_IDEMPOTENCY)
    described: dict[str, Any] = {
        "operationId": one.id,
        "tags": [one.tag],
        "summary": one.summary,
        "description": cleandoc(one.run.__doc__ or ""),
        "parameters": parameters,
        "responses": {
            str(status): _answer(status, answer, by_kind) | _links(one, answer, operations)
            for status, answer in sorted({**_EVERYWHERE, **_if_changing(one), **one.answers}.items())
        },
    }
    if one.body is not None:
        described["requestBody"] = {
            "required": not one.body_optional,
            "content": {"application/json": {"schema": by_kind[one.body]}},
        }
    return described


def _if_changing(one: Operation) -> dict[int, Answer]:
    return {} if one.method == "GET" else _WITH_BODY


def _answer(status: int, answer: Answer, by_kind: dict[Any, Any]) -> dict[str, Any]:
    kind = answer.body if status < 400 else Problem
    described: dict[str, Any] = {"description": answer.description}
    if kind is not None:
        described["content"] = {answer.media: {"schema": by_kind[kind]}, **{media: {} for media in answer.also}}
    return described


def _links(one: Operation, answer: Answer, operations: Sequence[Operation]) -> dict[str, Any]:
    """What can be asked next with a name that an answer gives: the rest of a path is that of the request."""
    links: dict[str, Any] = {}
    for name, pointer in answer.names.items():
        known = {part: f"$request.path.{part}" for part in one.parts} | {name: f"$response.body#{pointer}"}
        for other in operations:
            if name in other.parts and set(other.parts) <= set(known):
                links[other.id] = {part: known[part] for part in other.parts}
            elif other is one and name not in one.parts and name in _fields(one.query):
                links[other.id] = {**{part: known[part] for part in one.parts}, name: known[name]}
    described = {id: {"operationId": id, "parameters": parameters} for id, parameters in links.items()}
    return {"links": described} if described else {}


def _fields(kind: Any) -> tuple[str, ...]:
    return () if kind is None else tuple(field.encode_name for field in msgspec.structs.fields(kind))


def _query_parameters(kind: Any) -> list[dict[str, Any]]:
    [schema], components = msgspec.json.schema_components([kind], ref_template=_REFS)
    properties = components[kind.__name__]["properties"] if "$ref" in schema else schema["properties"]
    comments = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    return [
        {"name": name, "in": "query", "required": comments[name].required, "schema": _given(inner)}
        for name, inner in properties.items()
    ]


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """What a parameter is where it is given: no text of a query string is null."""
    match schema:
        case {"anyOf": [given, {"type": "null"}]}:
            return dict(given)
    return schema
