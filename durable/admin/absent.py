"""What Restate's server has and an embedded engine has not: listings are empty, changes say what to do instead."""

from typing import Any

from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation, json
from durable.errors import NotFoundError
from durable.web.errors import BadRequest

_KAFKA = "this engine reads no Kafka topics: consume the topic in your own process, and call engine.send() per record"
_LIMITS = "this engine has no limit rules: give Engine(max_concurrent_invocations=...)"


async def list_subscriptions(call: Call) -> Response:
    """None: see `create_subscription`."""
    return json({"subscriptions": []})


async def get_subscription(call: Call) -> Response:
    """There are none."""
    raise NotFoundError(f"The requested subscription '{call.path['subscription']}' does not exist")


async def create_subscription(call: Call) -> Response:
    """Refused."""
    raise BadRequest(501, f"subscriptions cannot be created: {_KAFKA}")


async def list_kafka_clusters(call: Call) -> Response:
    """None."""
    return json({"clusters": []})


async def get_kafka_cluster(call: Call) -> Response:
    """There are none."""
    raise NotFoundError(f"The requested Kafka cluster '{call.path['cluster']}' does not exist")


async def create_kafka_cluster(call: Call) -> Response:
    """Refused."""
    raise BadRequest(501, f"Kafka clusters cannot be added: {_KAFKA}")


async def set_limit_rules(call: Call) -> Response:
    """Refused."""
    raise BadRequest(501, _LIMITS)


async def steer_queue(call: Call) -> Response:
    """Refused."""
    raise BadRequest(501, "this engine has no virtual queues: pause and resume invocations")


_REFUSED = {501: Answer("It cannot be done; the message says what to do instead.")}
_NONE = {404: Answer("There is none.")}


def _absent(method: str, path: str, run: object, answers: object, name: str = "") -> Operation:
    return Operation(
        method=method, path=path, run=run, tag="not here", answers=answers, name=name,  # type: ignore[arg-type]
        summary="Not in an embedded engine", body=Any if method in ("POST", "PUT") else None, body_optional=True,
    )  # fmt: skip


OPERATIONS = (
    _absent("GET", "/subscriptions", list_subscriptions, {200: Answer("None.", dict[str, list[str]])}),
    _absent("POST", "/subscriptions", create_subscription, _REFUSED),
    _absent("GET", "/subscriptions/{subscription}", get_subscription, _NONE),
    _absent("DELETE", "/subscriptions/{subscription}", get_subscription, _NONE, "delete_subscription"),
    _absent("GET", "/kafka-clusters", list_kafka_clusters, {200: Answer("None.", dict[str, list[str]])}),
    _absent("POST", "/kafka-clusters", create_kafka_cluster, _REFUSED),
    _absent("GET", "/kafka-clusters/{cluster}", get_kafka_cluster, _NONE),
    _absent("PATCH", "/kafka-clusters/{cluster}", get_kafka_cluster, _NONE, "change_kafka_cluster"),
    _absent("DELETE", "/kafka-clusters/{cluster}", get_kafka_cluster, _NONE, "delete_kafka_cluster"),
    _absent("PUT", "/limits/rules", set_limit_rules, _REFUSED),
    _absent("POST", "/limits/rules/bulk-delete", set_limit_rules, _REFUSED, "delete_limit_rules"),
    _absent("POST", "/vqueues/{queue}/pause", steer_queue, _REFUSED, "pause_queue"),
    _absent("POST", "/vqueues/{queue}/resume", steer_queue, _REFUSED, "resume_queue"),
)
