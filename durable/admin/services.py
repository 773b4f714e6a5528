"""Services and their handlers: what they look like, and what can be set while they run."""

import msgspec
from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation, json
from durable.admin.wire import (
    HandlerMetadata,
    Handlers,
    ModifyService,
    ServiceMetadata,
    Services,
    service_metadata,
)
from durable.core.duration import parse
from durable.errors import NotFoundError
from durable.service import Configuration
from durable.web.errors import BadRequest


async def list_services(call: Call) -> Response:
    """All services, sorted by name."""
    if call.exact:
        return json(await call.engine.services())
    return json(Services([service_metadata(view) for view in await call.engine.services()]))


async def get_service(call: Call) -> Response:
    """One service."""
    if call.exact:
        return json(await call.engine.service(call.path["service"]))
    return json(await _service(call))


async def modify_service(call: Call) -> Response:
    """Set options of a service. They are kept in the file, and hold for invocations from now on."""
    service, change = await _service(call), call.body
    if change.workflow_completion_retention is not None and service.ty != "Workflow":
        raise BadRequest(400, f"modifying retention time for service type {service.ty} is unsupported")
    options: Configuration = {}
    for name in change.reset:
        options[name] = None  # type: ignore[literal-required]
    for name, value in msgspec.structs.asdict(change).items():
        if value is None or name == "reset":
            continue
        if name != "public":
            _check_duration(name, value)
        options[name] = value  # type: ignore[literal-required]
    if options:
        await call.engine.configure(service.name, **options)
    return json(await _service(call))


async def list_handlers(call: Call) -> Response:
    """The handlers of a service, sorted by name."""
    return json(Handlers((await _service(call)).handlers))


async def get_handler(call: Call) -> Response:
    """One handler."""
    service, name = call.path["service"], call.path["handler"]
    for view in await call.engine.services():
        for handler in service_metadata(view).handlers if view.name == service else ():
            if handler.name == name:
                return json(handler)
    raise NotFoundError(f"The requested handler '{name}' on service '{service}' does not exist")


async def _service(call: Call) -> ServiceMetadata:
    name = call.path["service"]
    for view in await call.engine.services():
        if view.name == name:
            return service_metadata(view)
    raise NotFoundError(f"The requested service '{name}' does not exist")


def _check_duration(name: str, text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise BadRequest(422, f"{name}: {error}") from None


OPERATIONS = (
    Operation(
        method="GET", path="/services", run=list_services, tag="services", summary="List services",
        answers={200: Answer("The services.", Services, names={"service": "/services/0/name"})},
    ),
    Operation(
        method="GET", path="/services/{service}", run=get_service, tag="services", summary="Describe a service",
        answers={
            200: Answer("The service.", ServiceMetadata, names={"handler": "/handlers/0/name"}),
            404: Answer("There is no such service."),
        },
    ),
    Operation(
        method="PATCH", path="/services/{service}", run=modify_service, tag="services",
        summary="Set options of a service", body=ModifyService,
        answers={
            200: Answer("The service as it is now.", ServiceMetadata),
            404: Answer("There is no such service."),
        },
    ),
    Operation(
        method="GET", path="/services/{service}/handlers", run=list_handlers, tag="services",
        summary="List the handlers of a service",
        answers={
            200: Answer("The handlers.", Handlers, names={"handler": "/handlers/0/name"}),
            404: Answer("There is no such service."),
        },
    ),
    Operation(
        method="GET", path="/services/{service}/handlers/{handler}", run=get_handler, tag="services",
        summary="Describe a handler",
        answers={200: Answer("The handler.", HandlerMetadata), 404: Answer("There is no such service or handler.")},
    ),
)  # fmt: skip
