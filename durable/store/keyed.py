"""What is stored by name: an invocation's signals, a key's state and promises; and what a damaged row means.

A damaged value belongs to its name: whoever reads that name is told, and all other names still work. If the name
itself is damaged, the checksum of the row still knows it, and is compared with the name that somebody misses.
"""

from collections.abc import Iterable, Sequence, Set
from typing import Any

from durable.core.invocation import Invocation, KeyedObject, Signal
from durable.core.journal import Outcome
from durable.core.world import Loaded
from durable.errors import StorageCorruptError
from durable.store.checksums import checksum, columns, complaint, differs, upper

#: Stands for names that cannot be read.
_UNREAD = "(unreadable)"
_SIGNAL = columns("seq ordinal name$ ok value#")


class Moved:
    """Names of one key whose rows have another name or key now: told by the upper half of their checksums."""

    def __init__(self, target: KeyedObject, halves: Set[int]) -> None:
        self._halves = halves
        self._key = (target.service, target.key)

    def __contains__(self, name: object) -> bool:
        return upper((*self._key, name)) in self._halves


class _Everything:
    """Every name: which of them are on a page that cannot be read is not known."""

    def __contains__(self, name: object) -> bool:
        return True


#: Of a key whose state or promises cannot be read: a name that was not found may be there.
EVERYTHING = _Everything()


def moved(stored: Iterable[Sequence[Any]]) -> frozenset[int]:
    """Of rows (service, key, name, checksum), those that are not where they were written, by their upper halves."""
    found = set()
    for *place, stored_checksum in stored:
        if isinstance(stored_checksum, int) and differs(stored_checksum, place, partly=True):
            found.add(stored_checksum >> 32)
    return frozenset(found)


def signal_row(seq: int, signal: Signal) -> tuple[Any, ...]:
    """A kept signal, in the order of the table's columns."""
    row = (seq, signal.ordinal, signal.name, int(signal.outcome.ok), signal.outcome.value)
    return (*row, checksum(row[:4], row[4]))


def signals_of(stored: Iterable[Sequence[Any]]) -> list[Signal]:
    """The kept signals of one invocation. Raises `StorageCorruptError`."""
    found = []
    for *row, stored_checksum in stored:
        trouble = complaint("signals", _SIGNAL, row)
        if not trouble and stored_checksum is not None:
            wrong = differs(stored_checksum, row[:4], row[4])
            half = "signals.value" if wrong == "value" else "one of signals.seq, ordinal, name, ok"
            trouble = wrong and f"{half} is not what was written"
        if trouble or row[3] not in (0, 1):
            raise StorageCorruptError(f"a signal it was sent is damaged: {trouble or f'signals.ok is {row[3]!r}'}")
        found.append(Signal(row[1], row[2], Outcome(row[3] == 1, row[4])))
    return found


def take_signals(invocation: Invocation, stored: Iterable[Sequence[Any]], loaded: Loaded) -> None:
    """Add an invocation's kept signals to what was loaded, or note that it is damaged."""
    try:
        signals = signals_of(stored)
    except StorageCorruptError as error:
        invocation.found_damaged(str(error))
    else:
        if signals:
            loaded.signals[invocation.seq] = signals


def state_row(service: str, key: str, name: str, value: bytes) -> tuple[Any, ...]:
    """One value of a key's state, in the order of the table's columns."""
    return (service, key, name, value, checksum((service, key, name), value))


def promise_row(service: str, key: str, name: str, outcome: Outcome) -> tuple[Any, ...]:
    """One settled promise, in the order of the table's columns."""
    ok = int(outcome.ok)
    return (service, key, name, ok, outcome.value, checksum((service, key, name), _settled(ok, outcome.value)))


def _settled(ok: Any, value: Any) -> Any:
    """What the lower half of a promise's checksum is over."""
    return (b"1" if ok == 1 else b"0") + value if ok in (0, 1) and isinstance(value, bytes) else value


def take_state(target: KeyedObject, stored: Iterable[Sequence[Any]]) -> None:
    """Read a key's state: (name, value, checksum). What is damaged is noted with its name, or as lost."""
    halves: set[int] = set()
    for name, value, stored_checksum in stored:
        wrong = _wrong(target, name, value, isinstance(value, bytes), stored_checksum)
        if not wrong:
            target.state[name] = value
            continue
        cause = f"the state {name!r} of {target.service}/{target.key} is damaged: state.{wrong}"
        (target.damaged_state if wrong == "value" else target.lost_state)[str(name)] = cause
        if wrong == "name" and isinstance(stored_checksum, int):
            halves.add(stored_checksum >> 32)
    target.moved_state = Moved(target, halves) if halves else ()


def unread_state(target: KeyedObject, cause: str) -> None:
    """Some of a key's state is on a page that cannot be read."""
    target.moved_state = EVERYTHING
    target.lost_state[_UNREAD] = f"the state of {target.service}/{target.key} is damaged: {cause}"


def unread_promises(target: KeyedObject, cause: str) -> None:
    """Some of a workflow's promises are on a page that cannot be read."""
    target.moved_promises = EVERYTHING
    target.lost_promises[_UNREAD] = f"the promises of {target.service}/{target.key} are damaged: {cause}"


def take_promises(target: KeyedObject, stored: Iterable[Sequence[Any]]) -> None:
    """Read a workflow's promises: (name, ok, value, checksum)."""
    halves: set[int] = set()
    for name, ok, value, stored_checksum in stored:
        sound = isinstance(value, bytes) and ok in (0, 1)
        wrong = _wrong(target, name, _settled(ok, value), sound, stored_checksum)
        if not wrong:
            target.promises[name] = Outcome(ok == 1, value)
            continue
        cause = f"the promise {name!r} of {target.service}/{target.key} is damaged: promises.{wrong}"
        (target.damaged_promises if wrong == "value" else target.lost_promises)[str(name)] = cause
        if wrong == "name" and isinstance(stored_checksum, int):
            halves.add(stored_checksum >> 32)
    target.moved_promises = Moved(target, halves) if halves else ()


def _wrong(target: KeyedObject, name: Any, value: Any, sound: bool, stored_checksum: Any) -> str:
    """ "value", "name", or "" where nothing is wrong."""
    if not isinstance(name, str):
        return "name"
    if stored_checksum is not None:
        wrong = differs(stored_checksum, (target.service, target.key, name), value)
        return wrong and ("value" if wrong == "value" else "name")
    return "" if sound else "value"
