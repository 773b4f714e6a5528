"""Deployments, as clients of Restate expect to find them: the code of this process is the only one."""

import platform
from typing import Any

from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation, json
from durable.admin.wire import (
    Deployment,
    Deployments,
    DetailedDeployment,
    ServiceNameRevision,
    instant,
    service_metadata,
)
from durable.core.ids import is_deployment_id
from durable.errors import NotFoundError
from durable.release import package_version
from durable.views.services import ServiceView
from durable.web.errors import BadRequest

_IN_PROCESS = (
    "handlers are part of this process and are not registered over HTTP: add them to Engine(services=[...]), or take "
    "them out, and restart the process with the new code; unfinished invocations go on with it"
)


async def list_deployments(call: Call) -> Response:
    """The running code."""
    views = await call.engine.services()
    names = [ServiceNameRevision(view.name, view.revision) for view in views]
    return json(Deployments([Deployment(**_code(call, views), services=names)] if views else []))


async def get_deployment(call: Call) -> Response:
    """The running code, with its services in full."""
    if not is_deployment_id(call.path["deployment"]):
        raise BadRequest(400, "The request field 'deployment' is invalid. Reason: bad format")
    views = await call.engine.services()
    if not views or views[0].deployment_id != call.path["deployment"]:
        raise NotFoundError(f"The requested deployment '{call.path['deployment']}' does not exist")
    services = [service_metadata(view) for view in views]
    return json(DetailedDeployment(**_code(call, views), services=services))


async def register_deployment(call: Call) -> Response:
    """Refused: the code is this process's own."""
    raise BadRequest(501, f"deployments cannot be registered here: {_IN_PROCESS}")


async def change_deployment(call: Call) -> Response:
    """Refused: the code is this process's own."""
    raise BadRequest(501, f"the deployment cannot be changed here: {_IN_PROCESS}")


async def delete_deployment(call: Call) -> Response:
    """Refused: the code is this process's own."""
    raise BadRequest(501, f"the deployment cannot be removed here: {_IN_PROCESS}")


def _code(call: Call, views: list[ServiceView]) -> dict[str, Any]:
    return {
        "id": views[0].deployment_id,
        "uri": "http://embedded.invalid/",
        "created_at": instant(call.admin.created_at) or "",
        "sdk_version": f"durable/{package_version()} python/{platform.python_version()}",
    }


_REFUSED = {501: Answer("It cannot be done; the message says what to do instead.")}

OPERATIONS = (
    Operation(
        method="GET", path="/deployments", run=list_deployments, tag="deployments", summary="List deployments",
        answers={200: Answer("The running code.", Deployments, names={"deployment": "/deployments/0/id"})},
    ),
    Operation(
        method="GET", path="/deployments/{deployment}", run=get_deployment, tag="deployments",
        summary="Describe a deployment",
        answers={
            200: Answer("The running code.", DetailedDeployment),
            404: Answer("It is not what runs."),
        },
    ),
    Operation(
        method="POST", path="/deployments", run=register_deployment, tag="deployments",
        summary="Register a deployment", body=Any, body_optional=True, answers=_REFUSED,
    ),
    Operation(
        method="PATCH", path="/deployments/{deployment}", run=change_deployment, tag="deployments",
        summary="Change a deployment", answers=_REFUSED,
    ),
    Operation(
        method="DELETE", path="/deployments/{deployment}", run=delete_deployment, tag="deployments",
        summary="Remove a deployment", answers=_REFUSED,
    ),
)  # fmt: skip
