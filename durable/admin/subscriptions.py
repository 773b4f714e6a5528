"""Subscriptions and Kafka clusters: created, listed, paused and deleted, in Restate's bodies."""

from typing import Literal

import msgspec
from starlette.responses import Response

from durable.admin.errors import Problem
from durable.admin.operations import Answer, Call, Operation, empty, json
from durable.admin.wire import MomentText, instant
from durable.errors import InvalidRequestError
from durable.kafka.sources import check_cluster_name
from durable.kafka.state import ClusterView, PartitionView, SubscriptionView
from durable.views import moments
from durable.web.errors import BadRequest

#: What Restate calls errors of a source or a sink.
_CODE = "META0009"
_OF_URIS = ("invalid source URI", "invalid sink URI")


class Subscription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A subscription, and how it fares."""

    id: str
    source: str
    sink: str
    #: Its own, with its `group.id`, and `client.id` unless its cluster has one; secrets are hidden.
    options: dict[str, str]
    state: str
    #: Why it is retrying, or has failed: a word for programs, and a sentence for people.
    reason: str | None = None
    cause: str | None = None
    #: Since when it is in this state.
    since: MomentText
    #: Sums over its partitions; the lag is left out while it is not known.
    lag: int | None = None
    taken: int
    failed: int
    skipped: int
    last_record_at: MomentText | None = None
    partitions: tuple[PartitionView, ...] = ()


class Subscriptions(msgspec.Struct, frozen=True):
    """Subscriptions, the oldest first."""

    subscriptions: list[Subscription]


class CreateSubscription(msgspec.Struct, frozen=True):
    """`kafka://CLUSTER/TOPIC`, `service://SERVICE/HANDLER`, and options by librdkafka's names."""

    source: str
    sink: str
    options: dict[str, str] | None = None
    #: Whether there may be one like it already; otherwise that one is the answer.
    again: bool = True


class Wanted(msgspec.Struct, frozen=True):
    """Which subscriptions to list: those that have exactly these."""

    source: str | None = None
    sink: str | None = None


class Going(msgspec.Struct, frozen=True):
    """Where a subscription goes on: where it stands, unless this says otherwise."""

    position: Literal["stored", "committed", "earliest", "latest"] | None = None


class Cluster(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A Kafka cluster."""

    name: str
    #: Secrets are hidden.
    properties: dict[str, str]
    created_at: MomentText
    #: Whether the program gives it: such a one is changed there.
    from_code: bool
    #: Those that read from it, where they are asked for; left out of a list.
    subscriptions: list[Subscription] | None = None
    #: What is damaged of it.
    damage: str | None = None


class Clusters(msgspec.Struct, frozen=True):
    """Kafka clusters, by name."""

    clusters: list[Cluster]


class CreateCluster(msgspec.Struct, frozen=True):
    """A name as hosts have them, and options by librdkafka's names."""

    name: str
    properties: dict[str, str]


class ChangeCluster(msgspec.Struct, frozen=True):
    """All options: those that are left out are gone."""

    properties: dict[str, str]


class Details(msgspec.Struct, frozen=True):
    """What to show of a cluster."""

    include_subscriptions: bool = False


class Removal(msgspec.Struct, frozen=True):
    """How to delete a cluster."""

    #: Also where subscriptions read from it: they wait until there is one of that name.
    force: bool = False


def _subscription(view: SubscriptionView) -> Subscription:
    return Subscription(
        id=view.id,
        source=view.source,
        sink=view.sink,
        options=view.options,
        state=view.state,
        reason=view.reason or None,
        cause=view.cause or None,
        since=moments.instant(view.since),
        lag=view.lag,
        taken=view.taken,
        failed=view.failed,
        skipped=view.skipped,
        last_record_at=instant(view.last_record_at),
        partitions=view.partitions,
    )


def _cluster(view: ClusterView, subscriptions: list[Subscription] | None = None) -> Cluster:
    return Cluster(
        name=view.name,
        properties=view.properties,
        created_at=moments.instant(view.created_at),
        from_code=view.from_code,
        subscriptions=subscriptions,
        damage=view.damage or None,
    )


async def list_subscriptions(call: Call) -> Response:
    """Subscriptions, the oldest first."""
    found = await call.engine.subscriptions(source=call.query.source, sink=call.query.sink)
    if call.exact:
        return json(found)
    return json(Subscriptions([_subscription(one) for one in found]))


async def get_subscription(call: Call) -> Response:
    """One subscription."""
    view = await call.engine.subscription(call.path["subscription"])
    return json(view if call.exact else _subscription(view))


async def create_subscription(call: Call) -> Response:
    """Have each record of a topic invoke a handler. Each call creates one, unless it says otherwise."""
    wanted = call.body
    try:
        view = await call.engine.subscribe(
            wanted.source, wanted.sink, wanted.options, again=wanted.again, idempotency_key=call.idempotency_key
        )
    except InvalidRequestError as error:
        if call.exact or not str(error).startswith(_OF_URIS):
            raise
        return json(Problem(f"[{_CODE}] {error}", _CODE), 400)
    return json(view if call.exact else _subscription(view), 201, {"location": f"subscriptions/{view.id}"})


async def delete_subscription(call: Call) -> Response:
    """Delete it: it leaves its group, and what it has accepted is still processed."""
    await call.engine.unsubscribe(call.path["subscription"], idempotency_key=call.idempotency_key)
    return empty(202)


async def pause_subscription(call: Call) -> Response:
    """Read nothing until it is resumed."""
    await call.engine.pause_subscription(call.path["subscription"])
    return empty(200)


async def resume_subscription(call: Call) -> Response:
    """Go on, or try again at once."""
    await call.engine.resume_subscription(
        call.path["subscription"], position=call.query.position, idempotency_key=call.idempotency_key
    )
    return empty(200)


async def list_kafka_clusters(call: Call) -> Response:
    """All Kafka clusters: those that the program gives, and those that were added at run time."""
    found = await call.engine.kafka_clusters()
    return json(found if call.exact else Clusters([_cluster(one) for one in found]))


async def get_kafka_cluster(call: Call) -> Response:
    """One Kafka cluster."""
    view = await call.engine.kafka_cluster(call.path["cluster"])
    if call.exact:
        return json(view)
    found = await call.engine.subscriptions() if call.query.include_subscriptions else []
    return json(_cluster(view, [_subscription(one) for one in found if one.id in view.subscriptions]))


async def create_kafka_cluster(call: Call) -> Response:
    """Keep a Kafka cluster."""
    try:
        check_cluster_name(call.body.name)
    except InvalidRequestError as error:
        raise BadRequest(422, str(error)) from None
    view = await call.engine.add_kafka_cluster(
        call.body.name, call.body.properties, idempotency_key=call.idempotency_key
    )
    return json(view if call.exact else _cluster(view), 201, {"location": f"kafka-clusters/{view.name}"})


async def change_kafka_cluster(call: Call) -> Response:
    """Replace its options; what reads from it connects anew."""
    view = await call.engine.change_kafka_cluster(call.path["cluster"], call.body.properties)
    return json(view if call.exact else _cluster(view))


async def delete_kafka_cluster(call: Call) -> Response:
    """Forget it."""
    await call.engine.remove_kafka_cluster(
        call.path["cluster"], force=call.query.force, idempotency_key=call.idempotency_key
    )
    return empty(202)


_NONE = {404: Answer("There is none.")}
_ONE = {200: Answer("The subscription.", Subscription), **_NONE}
_DONE = {200: Answer("Durable."), **_NONE}
_ID = {"subscription": "/id"}

OPERATIONS = (
    Operation(
        method="GET", path="/subscriptions", run=list_subscriptions, tag="subscriptions",
        summary="List subscriptions", query=Wanted, answers={200: Answer("Subscriptions.", Subscriptions)},
    ),
    Operation(
        method="POST", path="/subscriptions", run=create_subscription, tag="subscriptions",
        summary="Create a subscription", body=CreateSubscription, once=True,
        answers={201: Answer("Durable. Its state shows whether its broker is there.", Subscription, names=_ID)},
    ),
    Operation(
        method="GET", path="/subscriptions/{subscription}", run=get_subscription, tag="subscriptions",
        summary="Get a subscription", answers=_ONE,
    ),
    Operation(
        method="DELETE", path="/subscriptions/{subscription}", run=delete_subscription, tag="subscriptions",
        summary="Delete a subscription", once=True, answers={202: Answer("It has left its group."), **_NONE},
    ),
    Operation(
        method="PATCH", path="/subscriptions/{subscription}/pause", run=pause_subscription, tag="subscriptions",
        summary="Pause a subscription", answers=_DONE,
    ),
    Operation(
        method="PATCH", path="/subscriptions/{subscription}/resume", run=resume_subscription, tag="subscriptions",
        summary="Resume a subscription, or say where it goes on", query=Going, once=True, answers=_DONE,
    ),
    Operation(
        method="GET", path="/kafka-clusters", run=list_kafka_clusters, tag="kafka clusters",
        summary="List Kafka clusters", answers={200: Answer("Clusters.", Clusters)},
    ),
    Operation(
        method="POST", path="/kafka-clusters", run=create_kafka_cluster, tag="kafka clusters",
        summary="Add a Kafka cluster", body=CreateCluster, once=True,
        answers={
            201: Answer("Durable.", Cluster, names={"cluster": "/name"}), 409: Answer("There is one of that name."),
        },
    ),
    Operation(
        method="GET", path="/kafka-clusters/{cluster}", run=get_kafka_cluster, tag="kafka clusters",
        summary="Get a Kafka cluster", query=Details, answers={200: Answer("The cluster.", Cluster), **_NONE},
    ),
    Operation(
        method="PATCH", path="/kafka-clusters/{cluster}", run=change_kafka_cluster, tag="kafka clusters",
        summary="Replace the options of a Kafka cluster", body=ChangeCluster,
        answers={200: Answer("Durable.", Cluster), 409: Answer("It is given by the program."), **_NONE},
    ),
    Operation(
        method="DELETE", path="/kafka-clusters/{cluster}", run=delete_kafka_cluster, tag="kafka clusters",
        summary="Delete a Kafka cluster", query=Removal, once=True,
        answers={202: Answer("Durable."), 409: Answer("It is read from, or given by the program."), **_NONE},
    ),
)  # fmt: skip
