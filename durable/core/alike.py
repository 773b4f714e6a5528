"""Records that become invocations which differ in little, as columns: most of a poll's have to wait for a slot.

Such a one is a row of the store, and nothing in memory: who waits is read again when there is a slot for it. So
neither many objects nor many bytes are made of what nobody looks at for now.
"""

from collections.abc import Iterator, Sequence

import msgspec

from durable.core.invocation import Invocation, Status, Submission

_headers = msgspec.json.Decoder(dict[str, str])


class Alike(msgspec.Struct, frozen=True, gc=False):
    """What some records become that run beside everything else, in their order."""

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
        """That of one of them; 0 where it was not computed."""
        if index == len(self.offsets) - 1:
            return self.fingerprints[1]
        return 0 if index else self.fingerprints[0]


class InLine(msgspec.Struct, frozen=True, gc=False):
    """Those from a place on: they wait for a slot, one behind the other, and are only rows."""

    records: Alike
    #: The first of them, in `records`; its sequence number and its place in the line. The others have the next ones.
    first: int
    seq: int
    place: int
    now: int

    def __len__(self) -> int:
        return len(self.records) - self.first

    def invocations(self) -> Iterator[Invocation]:
        """Each by itself."""
        for number in range(len(self)):
            yield self.invocation(number)

    def invocation(self, number: int) -> Invocation:
        """One of them by itself, as it would be in memory."""
        return Invocation(
            self.seq + number,
            self.records.submission(self.first + number),
            self.now,
            Status.READY,
            modified_at=self.now,
            place=self.place + number,
            started=True,
        )
