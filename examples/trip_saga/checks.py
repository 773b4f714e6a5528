"""What must hold of a trip that was called off, however often its worker was killed."""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from examples.trip_saga.driver import Evidence
from examples.trip_saga.outside import Ask, Line
from examples.trip_saga.services import Flight, Hotel
from examples.trip_saga.worker import Report


class Check(msgspec.Struct, frozen=True):
    """A promise, and how it was broken."""

    promise: str
    broken: list[str]


def check(evidence: Evidence) -> list[Check]:
    """All promises."""
    lines = evidence.lines
    return [
        Check("nothing was booked twice", list(_booked_twice(lines))),
        Check("every booking was cancelled, once", list(_not_cancelled_once(lines))),
        Check("leaf first: what was booked last was cancelled first", list(_out_of_order(lines))),
        Check("no step ran again but the one that was running at a kill", list(_ran_again(lines))),
        Check("the trip has ended as cancelled, 409", list(_wrong_outcome(evidence.report))),
        Check("all seats and rooms are free again", list(_not_free(evidence.report))),
        Check("nothing that the trip has called goes on without it", evidence.report.unfinished),
    ]


def check_the_kill(evidence: Evidence) -> Check:
    """That the story has shown what it is about."""
    booked = _references(evidence.lines, "book")
    at_kill = [_references(evidence.lines[: kill.asked], "cancel") for kill in evidence.kills]
    broken = []
    if not any(0 < len(cancelled) < len(booked) for cancelled in at_kill):
        broken = [f"cancelled by then: {', '.join(at_kill[0]) if at_kill else 'all'}. Is the machine busy? Try again"]
    return Check("the kill came in the middle of the unwinding", broken)


def _booked_twice(lines: Sequence[Line]) -> Iterator[str]:
    booked = Counter(line.company for line in lines if (line.ask, line.result) == ("book", "done"))
    for company, times in booked.items():
        if times > 1:
            yield f"{times} bookings at the {company}"


def _not_cancelled_once(lines: Sequence[Line]) -> Iterator[str]:
    done = Counter((line.ask, line.reference) for line in lines if line.result == "done")
    for ask, reference in done:
        if ask == "book" and done["cancel", reference] != 1:
            yield f"{reference} was cancelled {done['cancel', reference]} times"


def _out_of_order(lines: Sequence[Line]) -> Iterator[str]:
    booked, cancelled = _references(lines, "book"), _references(lines, "cancel")
    if cancelled != booked[::-1]:
        yield f"booked: {', '.join(booked)}; cancelled: {', '.join(cancelled)}"


def _ran_again(lines: Sequence[Line]) -> Iterator[str]:
    """A step that a process repeats must have been the last thing that the processes before it did."""
    last = {line.pid: line for line in lines}
    before: dict[tuple[str, str], Line] = {}
    for line in lines:
        earlier = before.get((line.ask, line.reference))
        if earlier is not None and (earlier.pid == line.pid or last[earlier.pid] is not earlier):
            yield f"{line.ask} {line.reference}: asked by process {earlier.pid}, and again by {line.pid}"
        before[line.ask, line.reference] = line


def _wrong_outcome(report: Report) -> Iterator[str]:
    if (report.code, report.message) != (409, "cancelled"):
        yield f"{report.message}, {report.code}"


def _not_free(report: Report) -> Iterator[str]:
    if report.seats_free != Flight.number:
        yield f"{report.seats_free} of {Flight.number} seats"
    if report.rooms_free != Hotel.number:
        yield f"{report.rooms_free} of {Hotel.number} rooms"


def _references(lines: Sequence[Line], ask: Ask) -> list[str]:
    """What was really booked, or cancelled, in that order."""
    return [line.reference for line in lines if (line.ask, line.result) == (ask, "done")]
