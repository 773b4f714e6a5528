"""Whether the engine runs, and what it is."""

from starlette.responses import Response

from durable.admin.operations import VERSION_MAX, VERSION_MIN, Answer, Call, Operation, empty, json
from durable.admin.wire import Version
from durable.release import package_version


async def health(call: Call) -> Response:
    """200 while the engine runs; 503 before, after, and when it has failed."""
    call.engine.check_running()
    return empty()


async def get_version(call: Call) -> Response:
    """The version of this package, and of Restate's admin API that it speaks; answered without an engine, too."""
    return json(
        Version(
            version=package_version(),
            min_admin_api_version=VERSION_MIN,
            max_admin_api_version=VERSION_MAX,
            ingress_endpoint=call.admin.ingress_url,
            features={},
        )
    )


OPERATIONS = (
    Operation(
        method="GET", path="/health", run=health, tag="engine", summary="Whether the engine runs",
        answers={200: Answer("It runs.")},
    ),
    Operation(
        method="GET", path="/version", run=get_version, tag="engine", summary="What answers here",
        answers={200: Answer("Versions.", Version)},
    ),
)  # fmt: skip
