"""Where records come from: subscriptions, and how far each partition of a topic has been taken.

A record and the position behind it are stored in one turn. So a record is taken once, whatever happens to the
process, to the connection, or to what the broker remembers.
"""

from typing import NamedTuple

import msgspec


class GroupPartition(NamedTuple):
    """A partition, as one consumer group reads it. Subscriptions with the same group share its positions."""

    cluster: str
    group: str
    topic: str
    partition: int


class Position(msgspec.Struct, frozen=True, gc=False):
    """How far a partition has been taken."""

    #: The first offset that has not been taken.
    next: int
    #: Of the record before it; 0 where that is not known. Another record at that offset: it is another topic by now.
    fingerprint: int = 0
    #: How many records became invocations; how many of these failed at once, because they cannot be run.
    taken: int = 0
    failed: int = 0
    #: How many offsets were passed over because their records were gone before they could be read.
    skipped: int = 0
    #: When the last record was taken.
    taken_at: int = 0


class Subscription(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic, each record of which invokes a handler."""

    id: str
    #: `kafka://cluster/topic` and `service://Service/handler`, as they were given.
    source: str
    sink: str
    #: As they were given; secrets are named, never contained.
    options: dict[str, str]
    cluster: str
    topic: str
    group: str
    service: str
    handler: str
    #: What kind of handler it was when the subscription was made: records become invocations without it, too.
    flavor: str
    created_at: int
    #: An operator has paused it.
    paused: bool = False
    #: Where it is to begin, as an operator has decided, until it has: see `Reposition`.
    start: str = ""
    #: What is stored of it cannot be read: nothing else of it is true then, but for its id.
    damage: str = ""

    @property
    def owns_group(self) -> bool:
        """Whether its group is its own (and has its id), so that nobody else is in it."""
        return self.group == self.id


#: Where an operator may have a subscription begin anew: where it stands by the engine's own count, where the group
#: stands by the broker's, with the first record that there is, or behind the last.
STARTS = ("stored", "committed", "earliest", "latest")


class Cluster(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Kafka cluster that was added at run time. Secrets are named, never contained."""

    name: str
    properties: dict[str, str]
    created_at: int
    #: What is stored of it cannot be read.
    damage: str = ""
