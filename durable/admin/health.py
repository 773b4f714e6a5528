"""Whether the engine runs, and what it is."""

from anyio import to_thread
from starlette.responses import Response

from durable.admin.operations import VERSION_MAX, VERSION_MIN, Answer, Call, Operation, empty, json
from durable.admin.wire import Version
from durable.release import package_version
from durable.telemetry.exposition import CONTENT_TYPE
from durable.views.health import Health


async def health(call: Call) -> Response:
    """200 while the engine runs; 503 before, after, and when it has failed."""
    call.engine.check_running()
    return empty()


async def health_details(call: Call) -> Response:
    """How the engine of this process fares: a verdict, its reasons in words, and the numbers. 200 whatever it says.

    Answered where the engine does not run, has failed or is on standby, too. What the numbers are measured by is in
    `docs/metrics.md`.
    """
    return json(await call.engine.health())


async def metrics(call: Call) -> Response:
    """The metrics of the engine of this process, in Prometheus' text format.

    Events are counted from the start of the engine, where this app was made before that; otherwise from the first
    time that somebody asks. Where the engine does not run handlers, only what was counted is there.
    """
    page = await to_thread.run_sync(call.engine.metrics)
    return Response(page, media_type=CONTENT_TYPE)


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
        method="GET", path="/health/details", run=health_details, tag="engine", summary="How the engine fares",
        answers={200: Answer("A verdict, and what it rests on.", Health)},
    ),
    Operation(
        method="GET", path="/metrics", run=metrics, tag="engine", summary="Metrics for Prometheus",
        answers={200: Answer("Counters, histograms and gauges.", str, CONTENT_TYPE)},
    ),
    Operation(
        method="GET", path="/version", run=get_version, tag="engine", summary="What answers here",
        answers={200: Answer("Versions.", Version)},
    ),
)  # fmt: skip
