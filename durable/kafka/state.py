"""What people see of subscriptions and clusters."""

from typing import Literal

import msgspec

State = Literal["starting", "running", "retrying", "failed", "paused"]


class PartitionView(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition is. Only those that this engine reads at the moment have an `end`."""

    partition: int
    #: The first offset that was not taken.
    position: int
    #: The offset behind the last record that can be read, as the broker said last.
    end: int | None = None
    lag: int | None = None
    #: How many records became invocations, how many of these failed at once, how many were gone unread.
    taken: int = 0
    failed: int = 0
    skipped: int = 0
    #: When the last record was taken, in ms since the epoch.
    taken_at: int | None = None


class SubscriptionView(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription, and how it fares."""

    id: str
    source: str
    sink: str
    #: Its own, with its `group.id`, and `client.id` unless its cluster has one; secrets are hidden.
    options: dict[str, str]
    #: starting: it connects, or waits for its partitions. running. retrying: it tries again, see `cause`. failed: it
    #: waits for an operator, who mends the cause and calls `resume_subscription`. paused: by an operator.
    state: State
    #: Why it is retrying, or has failed: a word for programs, and a sentence for people.
    reason: str = ""
    cause: str = ""
    #: When it came into this state, in ms since the epoch.
    since: int
    created_at: int
    #: Sums over its partitions; `lag` is None while it is not known.
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
    #: Whether it is given to `Engine(kafka_clusters=...)`: such a one is changed there.
    from_code: bool
    #: The ids of the subscriptions that read from it.
    subscriptions: tuple[str, ...] = ()
    #: What is damaged of it.
    damage: str = ""
