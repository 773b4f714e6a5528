"""Commands about subscriptions: the subscriptions themselves, their positions, and the records they take."""

import msgspec

from durable.core.alike import Alike
from durable.core.invocation import Submission
from durable.core.journal import Outcome
from durable.core.once import Once
from durable.core.sources import Cluster, GroupPartition, Subscription


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """Store a subscription."""

    subscription: Subscription
    token: int = 0
    once: Once | None = None


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """Forget a subscription; what it started goes on. The positions of its group stay, unless that was its own."""

    id: str
    token: int = 0
    once: Once | None = None


class ChangeSubscription(msgspec.Struct, frozen=True, gc=False):
    """Give a subscription other options, at its current position."""

    id: str
    options: dict[str, str]
    token: int = 0


class HoldSubscription(msgspec.Struct, frozen=True, gc=False):
    """Make a subscription stop taking records, or go on."""

    id: str
    held: bool
    token: int = 0


class Reposition(msgspec.Struct, frozen=True, gc=False):
    """An operator has decided where a subscription goes on; `start` is one of `sources.STARTS`."""

    id: str
    start: str
    token: int = 0
    once: Once | None = None


class Begin(msgspec.Struct, frozen=True, gc=False):
    """Store where reading begins in partitions that have no position yet; others keep theirs."""

    id: str
    positions: dict[GroupPartition, int]
    token: int = 0


class Offered(msgspec.Struct, frozen=True, gc=False):
    """A record, with the invocation that it will become."""

    offset: int
    submission: Submission
    #: See `Position.fingerprint`; 0 where it was not computed.
    fingerprint: int = 0
    #: Why it cannot be run: it becomes an invocation that has failed already.
    failure: Outcome | None = None


class Take(msgspec.Struct, frozen=True, gc=False):
    """Accept records of a partition, in their order, and move its position behind them."""

    id: str
    place: GroupPartition
    #: The offset from which on the reader has left nothing out: nothing is taken where the position is before it.
    since: int
    records: tuple[Offered, ...] | Alike
    token: int = 0
    #: What lies between the position and `since` is gone from the broker: it is counted as skipped.
    gone: bool = False


class SetCluster(msgspec.Struct, frozen=True, gc=False):
    """Store a cluster that was added at run time, or remove it."""

    name: str
    cluster: Cluster | None
    token: int = 0
    #: Refuse it where there is one of that name.
    new: bool = False
    once: Once | None = None
