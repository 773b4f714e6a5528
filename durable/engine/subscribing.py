"""Subscriptions: a topic's records become invocations. What reads them is imported only once there is one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from durable.core.ids import FRESH_BYTES, subscription_id
from durable.engine.control import Control
from durable.errors import InvalidRequestError, UsageError
from durable.kafka.state import ClusterView, SubscriptionView
from durable.runtime.loop import Loop
from durable.service import Handler

if TYPE_CHECKING:
    from durable.kafka.subscriptions import Subscriptions


class Subscribing(Control):
    """What an engine reads: subscriptions and clusters, listed, changed, paused and ended."""

    #: As they were given to the engine.
    _clusters: Mapping[str, Mapping[str, Any]]

    def _set_clusters(self, clusters: Mapping[str, Mapping[str, Any]] | None) -> None:
        self._clusters = {}
        if clusters is not None:
            from durable.kafka.subscriptions import check_clusters

            try:
                self._clusters = check_clusters(clusters)
            except InvalidRequestError as error:
                raise UsageError(str(error)) from None

    def _new_reading(self, loop: Loop) -> Subscriptions:
        """What reads for a life that begins."""
        from durable.kafka.subscriptions import Subscriptions

        return Subscriptions(loop, self._registry, self._clusters, self._clock.now_ms, self._new_ids)

    def _reading(self) -> Subscriptions:
        return cast("Subscriptions", self._living().reading())

    async def subscribe(
        self,
        source: str,
        sink: str | Handler[Any, Any],
        options: Mapping[str, str] | None = None,
        *,
        again: bool = False,
        idempotency_key: str | None = None,
    ) -> SubscriptionView:
        """Invoke a handler once for each record of a topic, from now on and in every later life of this engine.

            await engine.subscribe("kafka://my-cluster/orders", Orders.place, {"auto.offset.reset": "earliest"})

        `source` is `kafka://CLUSTER/TOPIC`, with a cluster of `Engine(kafka_clusters=...)`; `sink` is a handler, or
        `service://Service/handler`. The record's key is the key of an object or workflow, its value the input. The
        options have librdkafka's names, and override those of the cluster; secrets among them are named as
        `${env:KAFKA_...}`. Returns once the subscription is durable; its state shows whether the broker can be
        reached.

        A program can subscribe each time it starts: if there is a subscription with the same source, sink and
        `group.id` (given, or its own), that one is returned. Changed options apply to it from now on, and it goes on
        from its position. `again=True` makes another one. Raises `InvalidRequestError`; `ConflictError` if several
        could be meant.
        """
        reading = self._reading()
        if isinstance(sink, Handler):
            sink = f"service://{sink.service_name}/{sink.name}"
        fresh_id = subscription_id(os.urandom(FRESH_BYTES))
        return await reading.subscribe(source, sink, options, again, fresh_id, idempotency_key)

    async def subscriptions(self, *, source: str | None = None, sink: str | None = None) -> list[SubscriptionView]:
        """All subscriptions, or those from a source or to a sink, oldest first, and how each of them is doing."""
        return self._reading().views(source, sink)

    async def subscription(self, id: str) -> SubscriptionView:
        """One subscription. Raises `NotFoundError`, `InvalidRequestError`."""
        return self._reading().view(id)

    async def unsubscribe(self, id: str, *, idempotency_key: str | None = None) -> None:
        """Delete a subscription: it leaves its group, and what it has accepted is still processed.

        Another subscription with the same `group.id` continues after its last record. Raises `NotFoundError`.
        """
        await self._reading().unsubscribe(id, idempotency_key)

    async def pause_subscription(self, id: str) -> None:
        """Pause a subscription: it leaves its group and reads nothing until it is resumed. Raises `NotFoundError`."""
        await self._reading().pause(id)

    async def resume_subscription(
        self,
        id: str,
        *,
        position: Literal["stored", "committed", "earliest", "latest"] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Let a subscription go on that is paused, has failed, or waits before it tries again.

        `position` decides where, for all of its partitions: at the engine's own position (`stored`), at the position
        that the broker has for its group (`committed`), at the first record that there is (`earliest`), or after the
        last one (`latest`). Records may then be taken a second time, or left out. Raises `NotFoundError`,
        `InvalidRequestError`.
        """
        await self._reading().resume(id, position, idempotency_key)

    async def kafka_clusters(self) -> list[ClusterView]:
        """All Kafka clusters that subscriptions can name, secrets hidden."""
        return self._reading().clusters()

    async def kafka_cluster(self, name: str) -> ClusterView:
        """One Kafka cluster. Raises `NotFoundError`."""
        return self._reading().cluster(name)

    async def add_kafka_cluster(
        self, name: str, properties: Mapping[str, str], *, idempotency_key: str | None = None
    ) -> ClusterView:
        """Store a Kafka cluster in the file, beside those given in code; secrets are named as `${env:KAFKA_...}`.

        Raises `InvalidRequestError`; `ConflictError` if there is one of that name.
        """
        return await self._reading().set_cluster(name, properties, new=True, idempotency_key=idempotency_key)

    async def change_kafka_cluster(self, name: str, properties: Mapping[str, str]) -> ClusterView:
        """Replace the options of a cluster that is stored in the file; whatever reads from it connects again.

        Raises `NotFoundError`, `InvalidRequestError`; `ConflictError` for one that is given in code.
        """
        return await self._reading().set_cluster(name, properties, new=False)

    async def remove_kafka_cluster(
        self, name: str, *, force: bool = False, idempotency_key: str | None = None
    ) -> None:
        """Forget a cluster that is stored in the file. Raises `NotFoundError`.

        Raises `ConflictError` for one that is given in code, and if subscriptions read from it; with `force`, they
        wait.
        """
        await self._reading().remove_cluster(name, force=force, idempotency_key=idempotency_key)
