"""One attempt's walk over its journal: each thing the handler asks for is known, still waited for, or new.

A replay must not only return the recorded outcomes, it must return them in the recorded order, between the same
operations: a handler made of several concurrent flows would otherwise take its entries in another order than it did.
Every command row says how many outcomes the handler had seen when it asked (`seen`). So the outcome of rank r is
delivered when all recorded commands that had seen at most r outcomes have been asked for again, and not before.
"""

from bisect import bisect_right
from collections.abc import Sequence

from durable.core.journal import COMMAND, Kind, Outcome, Row, given_up
from durable.core.reasons import ADVICE, Reason
from durable.errors import JournalMismatchError


class Replay:
    """The recorded part of a journal, and how much of it has been walked."""

    def __init__(self, rows: Sequence[Row], until: int) -> None:
        self.commands: dict[int, Row] = {}
        arrivals: list[tuple[int, int, Outcome]] = []
        for row in rows:
            if row.part == COMMAND and row.entry:
                self.commands[row.entry] = row
            if row.ordinal is not None and row.ordinal < until:
                arrivals.append((row.ordinal, row.entry, Outcome(bool(row.ok), row.value or b"")))
        arrivals.sort(key=lambda arrival: arrival[0])
        seen = [self.commands[entry].seen for entry in sorted(self.commands)]
        self._arrivals = [(entry, outcome) for _, entry, outcome in arrivals]
        #: How many commands have to be asked for before the arrival of the same index.
        self._gates = [max(bisect_right(seen, rank), entry) for rank, (entry, _) in enumerate(self._arrivals)]
        self._next = 0
        self._undelivered = {entry for entry, _ in self._arrivals}
        self.last = max(self.commands, default=0)
        #: How many cancels are still to be delivered.
        self.cancels_left = sum(entry == 0 for entry, _ in self._arrivals)

    @property
    def outcomes_left(self) -> bool:
        """Whether recorded outcomes are still to be delivered."""
        return self._next < len(self._arrivals)

    def next_arrival(self, asked: int) -> tuple[int, Outcome] | None:
        """The next outcome to deliver, now that `asked` commands have been asked for."""
        if self._next >= len(self._arrivals) or self._gates[self._next] > asked:
            return None
        arrival = self._arrivals[self._next]
        self._next += 1
        self._undelivered.discard(arrival[0])
        if not arrival[0]:
            self.cancels_left -= 1
        return arrival

    def has_outcome(self, entry: int) -> bool:
        """Whether this entry's outcome is recorded and still to be delivered."""
        return entry in self._undelivered

    def was_given_up(self, entry: int, kind: Kind, name: str) -> bool:
        """Whether the journal has this at this entry, as something that a cancel prevented."""
        row = self.commands.get(entry)
        return row is not None and row.kind == kind and (row.name or "") == name and given_up(row.value)

    def match(self, entry: int, kind: Kind, name: str, fingerprint: bytes | None) -> Row | None:
        """The recorded command at this entry, or None where it is new. Raises `JournalMismatchError`."""
        row = self.commands.get(entry)
        if row is None:
            if entry < self.last:
                raise mismatch(entry, "no row, though it has later ones", f"{kind} {name}".strip())
            return None
        same = row.kind == kind and (row.name or "") == name
        if same and fingerprint is not None:
            same = fingerprint_of(row) == fingerprint
        if not same:
            other = " with another argument" if row.kind == kind and (row.name or "") == name else ""
            raise mismatch(entry, f"{row.kind} {row.name or ''}".strip(), f"{kind} {name}".strip() + other)
        return row

    def check_end(self, asked: int) -> None:
        """The handler has ended: it must have asked for everything that is recorded."""
        if asked < self.last:
            row = self.commands[asked + 1]
            raise mismatch(asked + 1, f"{row.kind} {row.name or ''}".strip(), "nothing: the handler ended")


def fingerprint_of(row: Row) -> bytes | None:
    """The fingerprint of the argument. (A state write stores its value as well.)"""
    if row.ok is None:
        return row.value
    return bytes.fromhex(row.detail) if row.detail else None


def mismatch(entry: int, recorded: str, asked: str) -> JournalMismatchError:
    """The error that says what the journal has, what the code asked, and how to go on."""
    return JournalMismatchError(
        f"entry {entry}: the journal has `{recorded}`, the code asked for `{asked}`. Handlers must do the same "
        "things in the same order on every attempt. Nothing was executed after this point. "
        f"{ADVICE[Reason.JOURNAL_MISMATCH]}"
    )


def stuck(replay: Replay, asked: int) -> JournalMismatchError:
    """The error for a handler that waits before it has asked for everything that is recorded."""
    row = replay.commands.get(asked + 1)
    recorded = f"{row.kind} {row.name or ''}".strip() if row is not None else "an outcome"
    return mismatch(asked + 1, recorded, "nothing: the handler waits for something else")
