"""A client's half for what an engine reads: subscriptions to Kafka topics, and the clusters that they name."""

from collections.abc import Mapping
from typing import Any, Literal

from durable.core.ids import is_subscription_id
from durable.errors import InvalidRequestError
from durable.kafka.sources import check_cluster_name, check_options
from durable.kafka.state import ClusterView, SubscriptionView
from durable.remote.asking import read
from durable.remote.operating import Operating
from durable.remote.wire import encoded_path
from durable.runtime.registry import check_text
from durable.service import Handler


class Subscribing(Operating):
    """What is read."""

    async def subscribe(
        self,
        source: str,
        sink: str | Handler[Any, Any],
        options: Mapping[str, str] | None = None,
        *,
        again: bool = False,
        idempotency_key: str | None = None,
    ) -> SubscriptionView:
        """See `Engine.subscribe`."""
        if isinstance(sink, Handler):
            sink = f"service://{sink.service_name}/{sink.name}"
        check_text("source", source)
        check_text("sink", sink)
        wanted = {"source": source, "sink": sink, "options": check_options(options), "again": again}
        said, safe = self._once(idempotency_key), not again or self._safe(idempotency_key)
        return _subscription(await self._operate("POST", "/subscriptions", json=wanted, headers=said, safe=safe))

    async def subscriptions(self, *, source: str | None = None, sink: str | None = None) -> list[SubscriptionView]:
        """See `Engine.subscriptions`."""
        wanted = {name: text for name, text in (("source", source), ("sink", sink)) if text is not None}
        return list(read(await self._operate("GET", "/subscriptions", query=wanted), list[SubscriptionView]))

    async def subscription(self, id: str) -> SubscriptionView:
        """See `Engine.subscription`."""
        return _subscription(await self._operate("GET", _path(id)))

    async def unsubscribe(self, id: str, *, idempotency_key: str | None = None) -> None:
        """See `Engine.unsubscribe`."""
        await self._operate("DELETE", _path(id), headers=self._once(idempotency_key))

    async def pause_subscription(self, id: str) -> None:
        """See `Engine.pause_subscription`."""
        await self._operate("PATCH", f"{_path(id)}/pause")

    async def resume_subscription(
        self,
        id: str,
        *,
        position: Literal["stored", "committed", "earliest", "latest"] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """See `Engine.resume_subscription`."""
        query = {} if position is None else {"position": position}
        said, safe = self._once(idempotency_key), position is None or self._safe(idempotency_key)
        await self._operate("PATCH", f"{_path(id)}/resume", query=query, headers=said, safe=safe)

    async def kafka_clusters(self) -> list[ClusterView]:
        """See `Engine.kafka_clusters`."""
        return list(read(await self._operate("GET", "/kafka-clusters"), list[ClusterView]))

    async def kafka_cluster(self, name: str) -> ClusterView:
        """See `Engine.kafka_cluster`."""
        return _cluster(await self._operate("GET", _cluster_path(name)))

    async def add_kafka_cluster(
        self, name: str, properties: Mapping[str, str], *, idempotency_key: str | None = None
    ) -> ClusterView:
        """See `Engine.add_kafka_cluster`."""
        check_cluster_name(name)
        wanted = {"name": name, "properties": check_options(properties, "properties")}
        said, safe = self._once(idempotency_key), self._safe(idempotency_key)
        return _cluster(await self._operate("POST", "/kafka-clusters", json=wanted, headers=said, safe=safe))

    async def change_kafka_cluster(self, name: str, properties: Mapping[str, str]) -> ClusterView:
        """See `Engine.change_kafka_cluster`."""
        wanted = {"properties": check_options(properties, "properties")}
        return _cluster(await self._operate("PATCH", _cluster_path(name), json=wanted))

    async def remove_kafka_cluster(
        self, name: str, *, force: bool = False, idempotency_key: str | None = None
    ) -> None:
        """See `Engine.remove_kafka_cluster`."""
        said, query = self._once(idempotency_key), {"force": "true"} if force else {}
        await self._operate("DELETE", _cluster_path(name), query=query, headers=said)


def _path(id: str) -> str:
    """Where a subscription is. Raises `InvalidRequestError`."""
    if not isinstance(id, str) or not is_subscription_id(id):
        raise InvalidRequestError(f"{id!r} is not the id of a subscription (`sub_1` and 22 letters or digits)")
    return encoded_path("subscriptions", id)


def _cluster_path(name: str) -> str:
    check_text("name of a cluster", name)
    return encoded_path("kafka-clusters", name)


def _subscription(answer: Any) -> SubscriptionView:
    view: SubscriptionView = read(answer, SubscriptionView)
    return view


def _cluster(answer: Any) -> ClusterView:
    view: ClusterView = read(answer, ClusterView)
    return view
