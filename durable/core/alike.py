"""Records whose invocations differ only a little, as columns, because most records of a poll have to wait for a slot.

An invocation that waits is a row of the store and nothing in memory; it is read again when there is a slot for it. So
no objects and few bytes are made for what nobody looks at yet.
"""

from collections.abc import Iterator, Sequence

import msgspec

from durable.core.invocation import Invocation, Status, Submission

_headers = msgspec.json.Decoder(dict[str, str])


class Alike(msgspec.Struct, frozen=True, gc=False):
    """The invocations of some records of a plain service, in their order."""

    #: What they have in common: of its id, input and headers there is one for each, below.
    shared: Submission
    offsets: Sequence[int]
    ids: Sequence[str]
    inputs: Sequence[bytes]
    #: As JSON.
    headers: Sequence[str]
    #: Of the first and the last one, see `Position.fingerprint`.
    fingerprints: tuple[int, int]

    def __len__(self) -> int:
        return len(self.offsets)

    def submission(self, index: int) -> Submission:
        """One of them by itself."""
        shared = self.shared
        return Submission(
            self.ids[index],
            shared.service,
            shared.handler,
            shared.key,
            shared.flavor,
            self.inputs[index],
            _headers.decode(self.headers[index]),
            None,
            shared.caller,
            None,
            shared.completion_retention_ms,
            shared.journal_retention_ms,
        )

    def fingerprint(self, index: int) -> int:
        """The fingerprint of one of them; 0 if it was not computed."""
        if index == len(self.offsets) - 1:
            return self.fingerprints[1]
        return 0 if index else self.fingerprints[0]


class InLine(msgspec.Struct, frozen=True, gc=False):
    """Those from some place on: they wait for a slot, one behind the other, and exist only as rows."""

    records: Alike
    #: The first of them, in `records`; its sequence number and its place in the line. The others have the next ones.
    first: int
    seq: int
    place: int
    now: int

    def __len__(self) -> int:
        return len(self.records) - self.first

    def invocations(self) -> Iterator[Invocation]:
        """All of them as single objects."""
        for number in range(len(self)):
            yield self.invocation(number)

    def invocation(self, number: int) -> Invocation:
        """One of them, as it would be in memory."""
        return Invocation(
            self.seq + number,
            self.records.submission(self.first + number),
            self.now,
            Status.READY,
            modified_at=self.now,
            place=self.place + number,
            started=True,
        )
