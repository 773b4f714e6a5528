"""Subscriptions and clusters, as people see them."""

from typing import Literal

import msgspec

State = Literal["starting", "running", "retrying", "failed", "paused"]


class PartitionView(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition has been read. Only partitions that this engine is reading now have an `end`."""

    partition: int
    #: The first offset that was not taken.
    position: int
    #: The offset after the last record that can be read, as the broker last reported it.
    end: int | None = None
    lag: int | None = None
    #: How many records became invocations, how many of these failed at once, how many were gone unread.
    taken: int = 0
    failed: int = 0
    skipped: int = 0
    #: When the last record was taken, in ms since the epoch.
    taken_at: int | None = None


class SubscriptionView(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription, and how it is doing."""

    id: str
    source: str
    sink: str
    #: Its own options, with its `group.id`, and with a `client.id` unless its cluster has one; secrets are hidden.
    options: dict[str, str]
    #: starting: it connects, or waits for its partitions. running. retrying: it tries again, see `cause`. failed: it
    #: waits until an operator mends the cause and calls `resume_subscription`. paused: by an operator.
    state: State
    #: Why it is retrying, or has failed: a word for programs, and a sentence for people.
    reason: str = ""
    cause: str = ""
    #: Since when it has been in this state, in ms since the epoch.
    since: int
    created_at: int
    #: Sums over its partitions; `lag` is None if it is not known.
    lag: int | None = None
    taken: int = 0
    failed: int = 0
    skipped: int = 0
    #: When its last record was taken, in ms since the epoch.
    last_record_at: int | None = None
    partitions: tuple[PartitionView, ...] = ()


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """A Kafka cluster that subscriptions can name."""

    name: str
    #: Secrets are hidden.
    properties: dict[str, str]
    created_at: int
    #: Whether it was given as `Engine(kafka_clusters=...)`, and so can only be changed there.
    from_code: bool
    #: The ids of the subscriptions that read from it.
    subscriptions: tuple[str, ...] = ()
    #: What of it is damaged, if anything.
    damage: str = ""
