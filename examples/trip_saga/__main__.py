"""`python -m examples.trip_saga`: call a trip off, kill its worker halfway through undoing it, and see it all undone.

Exit code 0 only when every promise was kept, and the kill came in the middle.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console

from examples.trip_saga.checks import Check, check, check_the_kill
from examples.trip_saga.driver import (
    STORY,
    CalledOff,
    Event,
    Evidence,
    Killed,
    Started,
    WorkerFailed,
    play,
    random_plan,
)
from examples.trip_saga.outside import Line

#: How deep in the tree of calls each thing is booked.
DEPTH = {"taxi": 0, "seat": 1, "room": 1, "car": 1, "policy": 2}


def main() -> int:
    """Tell the story, or play many; the exit code is the verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.trip_saga",
        description="Cancel a trip, kill its process in the middle of the undoing, and see it all undone.",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="play N trips with kills at random moments instead")
    parser.add_argument("--seed", type=int, metavar="S", help="of the random moments (default: a new one)")
    options = parser.parse_args()
    if options.seed is not None and options.rounds is None:
        parser.error("--seed is for --rounds: the story itself has no random moments")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is a number from 1 on")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        if options.rounds is None:
            return tell_story(console)
        seed = random.randrange(1_000_000) if options.seed is None else options.seed
        return play_rounds(console, options.rounds, seed)
    except WorkerFailed as error:
        console.print(f"\nFAILED: {error}", style="bold red")
        return 1


def tell_story(console: Console) -> int:
    """One trip, told while it happens, and what must hold of it."""
    narrator = Narrator(console)
    with tempfile.TemporaryDirectory(prefix="trip_saga-") as folder:
        evidence = play(Path(folder), STORY, narrator)
    report = evidence.report
    console.print(f"the trip has ended: {report.message}, {report.code}", style="bold")
    console.print()
    checks = [*check(evidence), check_the_kill(evidence)]
    show(console, checks)
    return verdict(
        console, checks, "The trip is undone: every booking cancelled once, leaf first, through a SIGKILL."
    )


def play_rounds(console: Console, rounds: int, seed: int) -> int:
    """Trip after trip, a line for each; a trip's seed alone plays it again."""
    console.print(f"seed {seed}")
    phases: Counter[str] = Counter()
    checks: list[Check] = []
    for trip in range(seed, seed + rounds):
        try:
            with tempfile.TemporaryDirectory(prefix="trip_saga-") as folder:
                evidence = play(Path(folder), random_plan(trip), lambda event: None)
        except WorkerFailed as error:
            raise WorkerFailed(f"{error}\n{again(trip)}") from None
        found = check(evidence)
        phases.update(kill.phase for kill in evidence.kills)
        checks += found
        broken = [one for one in found if one.broken]
        console.print(f"  {trip}: {summary(evidence)}: {'BROKEN' if broken else 'ok'}")
        if broken:
            show(console, broken)
            console.print(f"  {again(trip)}")
    came = ", ".join(f"{phases[phase]} while {phase}" for phase in ("booking", "waiting", "unwinding"))
    return verdict(console, checks, f"{rounds} trips undone, through {phases.total()} kills: {came}.")


def again(seed: int) -> str:
    """How to play one trip again."""
    return f"once more: python -m examples.trip_saga --rounds 1 --seed {seed}"


def summary(evidence: Evidence) -> str:
    """One trip in a line."""
    kills = ", ".join(kill.phase for kill in evidence.kills) or "doing nothing any more"
    booked = sum((line.ask, line.result) == ("book", "done") for line in evidence.lines)
    repeated = sum(line.result == "done before" for line in evidence.lines)
    return f"killed while {kills}; bookings undone: {booked}, requests repeated: {repeated}"


def show(console: Console, checks: list[Check]) -> None:
    """Each promise, and how it was broken."""
    for one in checks:
        console.print(f"  {'BROKEN' if one.broken else 'ok':<8}{one.promise}", style="red" if one.broken else "green")
        for words in one.broken:
            console.print(f"          {words}", style="red")


def verdict(console: Console, checks: list[Check], kept: str) -> int:
    """The last line, and the exit code."""
    console.print()
    if broken := sum(bool(one.broken) for one in checks):
        console.print(f"FAILED: {broken} of {len(checks)} promises were broken.", style="bold red")
        return 1
    console.print(kept, style="bold green")
    return 0


class Narrator:
    """Tells the story: what the companies do is indented as deep as it is in the tree of calls."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._workers = 0
        self._began: float | None = None

    def __call__(self, event: Event) -> None:
        """Tell one event."""
        match event:
            case Started(pid):
                self._workers += 1
                again = " on the same file" if self._workers > 1 else ""
                self._say(f"worker {pid} starts{again}", "bold")
            case CalledOff():
                self._say("the customer calls the trip off", "bold yellow")
            case Killed(pid):
                self._say(f"worker {pid} gets SIGKILL, right after that", "bold red")
            case Line():
                self._tell_line(event)

    def _tell_line(self, line: Line) -> None:
        if self._began is None:
            self._began = line.at
        thing = line.reference.rpartition("/")[2]
        place = "    " * DEPTH[thing] + thing
        self._say(
            f"{line.at - self._began:6.2f} s  {place:<16}{self._words(line)}", "" if line.result == "done" else "cyan"
        )

    @staticmethod
    def _words(line: Line) -> str:
        match line.ask, line.result:
            case "book", "done":
                return f"booked by the {line.company}"
            case "cancel", "done":
                return "cancelled"
            case "sign", "done":
                return f"has to be signed by the {line.company}: the trip hangs"
            case "cancel", "never booked":
                return "was never booked: nothing to cancel"
            case _:
                return f"asked to {line.ask} it again; the {line.company} knows the reference and does nothing"

    def _say(self, words: str, style: str) -> None:
        self._console.print(words, style=style)


if __name__ == "__main__":
    sys.exit(main())
