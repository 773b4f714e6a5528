"""All subscriptions of one life of an engine: their readers, and how each of them is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from durable import log
from durable.core import commands as ask
from durable.core import record_commands as records
from durable.core.effects import Answer, Reply
from durable.core.ids import is_subscription_id
from durable.core.sources import STARTS, Cluster, Subscription
from durable.core.world import World
from durable.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    StorageCorruptError,
)
from durable.kafka import options as opt
from durable.kafka.host import Host
from durable.kafka.reader import Reader
from durable.kafka.records import Records
from durable.kafka.sources import check_cluster_name, check_options, sink_of, source_of
from durable.kafka.state import ClusterView, PartitionView, SubscriptionView
from durable.runtime.once import asked_once, told_again
from durable.runtime.registry import Registry
from durable.serde import stable

Clusters = Mapping[str, Mapping[str, Any]]


def check_clusters(clusters: Any) -> dict[str, dict[str, Any]]:
    """The clusters that were given in code, checked. Raises `InvalidRequestError`."""
    if not isinstance(clusters, Mapping):
        raise InvalidRequestError("kafka_clusters takes a mapping of names to options by librdkafka's names")
    found: dict[str, dict[str, Any]] = {}
    for name, properties in clusters.items():
        check_cluster_name(name)
        if not isinstance(properties, Mapping):
            raise InvalidRequestError(f"kafka_clusters[{name!r}] is a mapping of option names to texts")
        _check_properties(properties, f"kafka_clusters[{name!r}]", kept=False)
        found[name] = dict(properties)
    return found


def _check_properties(properties: Mapping[str, Any], where: str, *, kept: bool) -> None:
    opt.check(properties, where=where, kept=kept)
    if not {"bootstrap.servers", "metadata.broker.list"} & properties.keys():
        raise InvalidRequestError(f"{where}: bootstrap.servers is missing (or metadata.broker.list)")


class Subscriptions:
    """The readers of all subscriptions. It belongs to one event loop, and lives from a start to a close."""

    def __init__(
        self,
        host: Host,
        registry: Registry,
        clusters: Clusters,
        now_ms: Callable[[], int],
        new_ids: Callable[[int], list[str]],
    ) -> None:
        self._host = host
        self._registry = registry
        self._clusters = clusters
        self._now_ms = now_ms
        self._new_ids = new_ids
        self._readers: dict[str, Reader] = {}
        self._began = now_ms()
        #: One change after the other.
        self._changing = asyncio.Lock()

    # ---- life ----

    def begin(self) -> None:
        """Read all subscriptions that are stored."""
        for id in list(self._world.subscriptions):
            self._read(id)

    async def close(self) -> None:
        """Leave all groups. Raises nothing."""
        readers, self._readers = self._readers, {}
        await asyncio.gather(*(reader.stop() for reader in readers.values()), return_exceptions=True)

    def abandon(self) -> None:
        """Stop reading as a killed process would."""
        for reader in self._readers.values():
            reader.abandon()
        self._readers = {}

    @property
    def _world(self) -> World:
        return self._host.world

    def _read(self, id: str) -> None:
        subscription = self._world.subscriptions.get(id)
        if subscription is None or subscription.paused or subscription.damage:
            return
        reader = self._readers.get(id)
        if reader is None:
            records = Records(subscription, self._registry, self._new_ids, self._host.observer)
            reader = Reader(self._host, subscription, partial(self._options, subscription), records, self._now_ms)
            self._readers[id] = reader
        reader.start()

    async def _stop(self, id: str) -> None:
        reader = self._readers.pop(id, None)
        if reader is not None:
            await reader.stop()

    def _options(self, subscription: Subscription) -> Mapping[str, Any]:
        """What holds for it now. Raises `Unresolved` where its cluster is not known."""
        cluster = self._cluster(subscription.cluster)
        if cluster is None:
            raise opt.Unresolved(_no_cluster(subscription.cluster, self._names()), "no-cluster")
        return opt.effective(subscription.id, cluster, subscription.options) | {"group.id": subscription.group}

    def _cluster(self, name: str) -> Mapping[str, Any] | None:
        named = self._world.clusters.get(name)
        if named is not None:
            return None if named.damage else named.properties
        return self._clusters.get(name)

    def _names(self) -> list[str]:
        return sorted({*self._clusters, *self._world.clusters})

    # ---- subscriptions ----

    async def subscribe(
        self, source: str, sink: str, options: Any, new: bool, fresh_id: str, idempotency_key: str | None
    ) -> SubscriptionView:
        """See `Engine.subscribe`."""
        read = source_of(source)
        handler = sink_of(sink, self._registry)
        cluster = self._cluster(read.cluster)
        if cluster is None:
            raise InvalidRequestError(_no_cluster(read.cluster, self._names()))
        own = check_options(options)
        opt.check(own, where="options", kept=True)
        once = asked_once(idempotency_key, source.encode(), sink.encode(), stable(own, b""))
        async with self._changing:
            if not new:
                group = str(opt.effective("", cluster, own)["group.id"])
                there = self._one_like(source, sink, own, group)
                if there is not None:
                    await self._use(there, own)
                    return self.view(there.id)
            subscription = Subscription(
                fresh_id,
                source,
                sink,
                own,
                read.cluster,
                read.topic,
                str(opt.effective(fresh_id, cluster, own)["group.id"]),
                handler.service,
                handler.name,
                str(handler.flavor),
                self._now_ms(),
            )
            reply = await self._ask(lambda token: records.Subscribe(subscription, token, once))
            told_again(reply, once, "subscribe", self._registry, (handler.service, handler.name))
            self._read(reply.id)
        return self.view(reply.id)

    def _one_like(self, source: str, sink: str, options: dict[str, str], group: str) -> Subscription | None:
        """The subscription that is meant; `group` is "" where it is to have its own. Raises `ConflictError`.

        What makes it the same are its source, its sink and its group, not its other options.
        """
        same = [one for one in self._world.subscriptions.values() if (one.source, one.sink) == (source, sink)]
        found = [one for one in same if one.group == group or (one.owns_group and not group)]
        exactly = next((one for one in found if one.options == options), None)
        if exactly is not None:
            return exactly
        if len(found) > 1:
            raise ConflictError(
                f"{source} invokes {sink} by {len(found)} subscriptions of which each could be meant, and none has "
                f"these options: {', '.join(one.id for one in found)}. Delete those that are too many with "
                "engine.unsubscribe(id), or make one more with again=True"
            )
        if same and not found:
            beside = ", ".join(f"{one.id} (group.id {one.group})" for one in same)
            log.kafka.warning(
                "%s will invoke %s in one more group (%s), beside %s: each of them gets every record; "
                "engine.unsubscribe(id) deletes one",
                source,
                sink,
                group or "of its own",
                beside,
            )
        return found[0] if found else None

    async def _use(self, one: Subscription, options: dict[str, str]) -> None:
        """Read with these options from now on, where it reads with others."""
        if one.options == options:
            return
        changed = sorted(name for name in {*one.options, *options} if one.options.get(name) != options.get(name))
        await self._ask(partial(records.ChangeSubscription, one.id, options), one.id)
        log.kafka.warning("%s (%s) reads with other options from now on: %s", one.id, one.source, ", ".join(changed))
        await self._stop(one.id)
        self._read(one.id)

    async def unsubscribe(self, id: str, idempotency_key: str | None) -> None:
        """See `Engine.unsubscribe`."""
        _check(id)
        once = asked_once(idempotency_key)
        async with self._changing:
            await self._stop(id)
            await self._ask(lambda token: records.Unsubscribe(id, token, once), id)

    async def pause(self, id: str) -> None:
        """See `Engine.pause_subscription`."""
        self._found(id)
        async with self._changing:
            await self._ask(partial(records.HoldSubscription, id, True), id)
            await self._stop(id)

    async def resume(self, id: str, position: str | None, idempotency_key: str | None) -> None:
        """See `Engine.resume_subscription`."""
        if position is not None and position not in STARTS:
            raise InvalidRequestError(f"position must be one of {', '.join(STARTS)}, not {position!r}")
        self._found(id)
        once = asked_once(idempotency_key, b"" if position is None else position.encode())
        async with self._changing:
            if position is not None:
                await self._stop(id)
                reply = await self._ask(lambda token: records.Reposition(id, position, token, once), id)
                told_again(reply, once, f"say where the subscription {id} goes on", self._registry, ("", ""))
            else:
                await self._ask(partial(records.HoldSubscription, id, False), id)
            self._read(id)

    async def _ask(self, make: Callable[[int], ask.Command], id: str = "") -> Reply:
        reply: Reply = await self._host.ask(make)
        if reply.result is Answer.NOT_FOUND:
            raise _unknown(id)
        if reply.result is Answer.UNSURE:
            raise StorageCorruptError(reply.cause)
        if reply.result is Answer.DAMAGED:
            raise StorageCorruptError(f"the subscription {id}: {reply.cause}; all that can be done is to delete it")
        return reply

    def _found(self, id: str) -> Subscription:
        _check(id)
        found = self._world.subscriptions.get(id)
        if found is None:
            raise _unknown(id)
        return found

    def views(self, source: str | None, sink: str | None) -> list[SubscriptionView]:
        """All subscriptions, or those with this source and this sink, oldest first."""
        found = sorted(self._world.subscriptions.values(), key=lambda one: (one.created_at, one.id))
        return [
            self.view(one.id)
            for one in found
            if (source is None or one.source == source) and (sink is None or one.sink == sink)
        ]

    def view(self, id: str) -> SubscriptionView:
        """One subscription. Raises `NotFoundError`, `InvalidRequestError`."""
        one = self._found(id)
        reader = self._readers.get(id)
        ends = {} if reader is None else reader.partitions.ends
        place = (one.cluster, one.group, one.topic)
        partitions = tuple(
            PartitionView(
                partition=at.partition,
                position=position.next,
                end=(end := ends.get(at.partition)),
                lag=None if end is None else max(0, end - position.next),
                taken=position.taken,
                failed=position.failed,
                skipped=position.skipped,
                taken_at=position.taken_at or None,
            )
            for at, position in sorted(self._host.positions.items())
            if at[:3] == place and not one.damage
        )
        lags = [at.lag for at in partitions if at.lag is not None]
        if one.damage:
            state: Any = ("failed", "damaged", one.damage, self._began)
        elif one.paused:
            state = ("paused", "", "", self._began)
        elif reader is None:
            state = ("starting", "", "", self._began)
        else:
            state = (reader.state, reader.reason, reader.cause, reader.since)
        return SubscriptionView(
            id=id,
            source=one.source,
            sink=one.sink,
            options=self._shown(one),
            state=state[0],
            reason=state[1],
            cause=state[2],
            since=state[3],
            created_at=one.created_at,
            lag=sum(lags) if lags else None,
            taken=sum(at.taken for at in partitions),
            failed=sum(at.failed for at in partitions),
            skipped=sum(at.skipped for at in partitions),
            last_record_at=max((at.taken_at for at in partitions if at.taken_at), default=None),
            partitions=partitions,
        )

    def _shown(self, one: Subscription) -> dict[str, str]:
        """As Restate's server shows them: its own, its group, its client's name unless its cluster has one."""
        if one.damage:
            return {}
        shown = opt.shown(one.options) | {"group.id": one.group}
        if "client.id" not in {**(self._cluster(one.cluster) or {}), **one.options}:
            shown["client.id"] = opt.DEFAULTS["client.id"]
        return shown

    # ---- clusters ----

    def clusters(self) -> list[ClusterView]:
        """All clusters, by name."""
        return [self.cluster(name) for name in self._names()]

    def cluster(self, name: str) -> ClusterView:
        """One cluster. Raises `NotFoundError`."""
        kept = self._world.clusters.get(name)
        if kept is None and name not in self._clusters:
            raise _no_such_cluster(name)
        readers = [one for one in self._world.subscriptions.values() if one.cluster == name]
        return ClusterView(
            name=name,
            properties=opt.shown(self._clusters[name] if kept is None else kept.properties),
            created_at=self._began if kept is None else kept.created_at,
            from_code=kept is None,
            subscriptions=tuple(sorted(one.id for one in readers)),
            damage="" if kept is None else kept.damage,
        )

    async def set_cluster(
        self, name: str, properties: Any, *, new: bool, idempotency_key: str | None = None
    ) -> ClusterView:
        """Store a cluster; its readers reconnect. Raises what `Engine.add_kafka_cluster` and `change_` raise."""
        exists = ConflictError(f"the Kafka cluster '{name}' exists already")
        if not new:
            self._changeable(name)
        else:
            check_cluster_name(name)
            if name in self._clusters:
                raise exists
        own = check_options(properties, "properties")
        _check_properties(own, f"the Kafka cluster '{name}'", kept=True)
        once = asked_once(idempotency_key, stable(own, b""))
        async with self._changing:
            kept = self._world.clusters.get(name)
            cluster = Cluster(name, own, self._now_ms() if kept is None else kept.created_at)
            reply = await self._ask(lambda token: records.SetCluster(name, cluster, token, new, once))
            if reply.result is Answer.CONFLICT:
                raise exists
            told_again(reply, once, f"add the Kafka cluster {name!r}", self._registry, ("", ""))
            await self._connect_again(name)
        return self.cluster(name)

    async def remove_cluster(self, name: str, *, force: bool, idempotency_key: str | None) -> None:
        """Remove a cluster. Raises `NotFoundError`; `ConflictError` if a subscription reads from it."""
        once = asked_once(idempotency_key)
        if once is None or name in self._names():  # else it may be gone because this was asked before
            view = self._changeable(name)
            if view.subscriptions and not force:
                raise ConflictError(
                    f"the Kafka cluster '{name}' is read from by {', '.join(view.subscriptions)}: delete these "
                    "first, or force it; they would wait until there is one of that name"
                )
        async with self._changing:
            try:
                await self._ask(lambda token: records.SetCluster(name, None, token, False, once))
            except NotFoundError:
                raise _no_such_cluster(name) from None
            await self._connect_again(name)

    def _changeable(self, name: str) -> ClusterView:
        view = self.cluster(name)
        if view.from_code:
            raise ConflictError(f"the Kafka cluster '{name}' is given to Engine(kafka_clusters=...): change it there")
        return view

    async def _connect_again(self, cluster: str) -> None:
        ids = [one.id for one in self._world.subscriptions.values() if one.cluster == cluster]
        await asyncio.gather(*(self._stop(id) for id in ids))
        for id in ids:
            self._read(id)


def _check(id: str) -> None:
    """Whether it has the form of a subscription's id. Raises `InvalidRequestError`."""
    if not isinstance(id, str) or not is_subscription_id(id):
        raise InvalidRequestError(f"{id!r} is not the id of a subscription (`sub_1` and 22 letters or digits)")


def _unknown(id: str) -> NotFoundError:
    return NotFoundError(f"The requested subscription '{id}' does not exist")


def _no_such_cluster(name: str) -> NotFoundError:
    return NotFoundError(f"The requested Kafka cluster '{name}' does not exist")


def hindrance(subscription: Subscription, clusters: Clusters) -> str:
    """Why this process could not read a subscription, given these clusters; "" if no reason is known."""
    cluster = clusters.get(subscription.cluster)
    if cluster is None:
        return _no_cluster(subscription.cluster, sorted(clusters))
    if find_spec("aiokafka") is None:
        return opt.NOT_INSTALLED
    options = opt.effective(subscription.id, cluster, subscription.options)
    try:
        opt.settings({name: value for name, value in options.items() if name not in opt.FORCED}, "its options")
    except (opt.Unresolved, InvalidRequestError, OSError, ValueError) as error:
        return str(error)
    return ""


def _no_cluster(name: str, names: list[str]) -> str:
    return f"Kafka cluster '{name}' not found. Available clusters: [{', '.join(names)}]"
