"""Starts the worker, calls the trip off, kills the worker and starts it again, and gathers what is left behind."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import msgspec

from examples.trip_saga.outside import Line, World
from examples.trip_saga.worker import Files, Report

#: No worker takes this long.
PATIENCE_S = 30.0
#: A trip that hangs has asked for this much: five bookings and a signature.
HANGS = 6


class Moment(msgspec.Struct, frozen=True):
    """`delay_s` after the companies were asked `after` times, or after the birth of the worker if that is later."""

    after: int
    delay_s: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """What is done to one trip."""

    call_off: Moment
    #: At most one for each worker.
    kills: tuple[Moment, ...]
    #: How long an answer of a company takes.
    answer_s: float


#: The trip hangs and is called off. The worker dies when the car rental has taken the car back and the engine does
#: not know it yet: the policy is undone, the room, the seat and the taxi are not.
STORY = Plan(Moment(HANGS), (Moment(HANGS + 2),), answer_s=0.25)


def random_plan(seed: int) -> Plan:
    """One to three kills anywhere before the end; now and then the trip is called off before it hangs."""
    draw = random.Random(seed)
    answer_s = 0.03

    def moment(after: int) -> Moment:
        longest = draw.choice([answer_s, 2 * answer_s, 0.5])  # the longest is for workers that have to start first
        return Moment(after, draw.uniform(0, longest))

    call_off = moment(draw.choice([HANGS, HANGS, draw.randint(1, HANGS - 1)]))
    last = call_off.after + min(call_off.after, HANGS - 1) - 1
    afters = sorted(draw.randint(0, last) for _ in range(draw.randint(1, 3)))
    return Plan(call_off, tuple(moment(after) for after in afters), answer_s)


#: What the trip was doing.
Phase = Literal["booking", "waiting", "unwinding"]


class Started(msgspec.Struct, frozen=True):
    """A worker was born."""

    pid: int


class CalledOff(msgspec.Struct, frozen=True):
    """The customer has changed his mind."""


class Killed(msgspec.Struct, frozen=True):
    """A worker got SIGKILL."""

    pid: int
    phase: Phase
    #: How much the companies had been asked for by then.
    asked: int


#: What happens, as it is told while it happens.
Event = Started | Line | CalledOff | Killed


class Evidence(msgspec.Struct, frozen=True):
    """Everything a story left behind."""

    lines: list[Line]
    kills: list[Killed]
    report: Report


class WorkerFailed(Exception):
    """The worker ended by itself or made no progress; the message holds the end of its log."""


def play(folder: Path, plan: Plan, tell: Callable[[Event], None]) -> Evidence:
    """Do all that to a trip, in an empty folder, and wait for its end. Raises `WorkerFailed`."""
    story, files, kills = Story(folder, plan, tell), Files(folder), iter(plan.kills)
    with files.log.open("ab") as log:
        while True:
            with Worker(folder, plan.answer_s, log) as worker:
                tell(Started(worker.process.pid))
                if not story.watch(worker, next(kills, None)):
                    return Evidence(story.lines, story.kills, worker.report(files.log))


class Worker:
    """The worker's process. Leaving the block ends it."""

    def __init__(self, folder: Path, answer_s: float, log: IO[bytes]) -> None:
        command = [sys.executable, "-m", "examples.trip_saga.worker", str(folder), "--answer-s", str(answer_s)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0)

    def call_off(self) -> None:
        """Tell it to call the trip off."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended
            self.process.stdin.write(b"call off\n")

    def kill(self) -> bool:
        """SIGKILL. False if it had ended by itself."""
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def report(self, log: Path) -> Report:
        """What it said at its end. Raises `WorkerFailed`."""
        assert self.process.stdout is not None
        if code := self.process.wait():
            raise WorkerFailed(f"the worker ended with code {code}\n{tail(log)}")
        return msgspec.json.decode(self.process.stdout.read(), type=Report)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.process:  # closes the pipes and waits
            self.process.kill()


class Story:
    """What has happened so far, in all the processes."""

    def __init__(self, folder: Path, plan: Plan, tell: Callable[[Event], None]) -> None:
        self._files = Files(folder)
        self._plan = plan
        self._tell = tell
        self._called_off = False
        self._seen_at: list[float] = []
        self.lines: list[Line] = []
        self.kills: list[Killed] = []

    def watch(self, worker: Worker, kill: Moment | None) -> bool:
        """Follow a worker to its death, and cause that if so planned. Returns whether it was killed."""
        born = time.monotonic()
        told = False
        while worker.process.poll() is None:
            self._look()
            if time.monotonic() > born + PATIENCE_S:
                raise WorkerFailed(f"the trip has not ended within {PATIENCE_S:.0f} s\n{tail(self._files.log)}")
            if not told and (self._called_off or self._has_come(self._plan.call_off, born)):
                self._call_off(worker)
                told = True
            if kill is not None and self._has_come(kill, born):
                return self._kill(worker)
            time.sleep(0.002)
        self._look()
        return False

    def _has_come(self, moment: Moment, born: float) -> bool:
        if len(self.lines) < moment.after:
            return False
        reached = self._seen_at[moment.after - 1] if moment.after else born
        return time.monotonic() >= max(reached, born) + moment.delay_s

    def _look(self) -> None:
        for line in World(self._files.world).lines()[len(self.lines) :]:
            self.lines.append(line)
            self._seen_at.append(time.monotonic())
            self._tell(line)

    def _call_off(self, worker: Worker) -> None:
        if not self._called_off:
            self._called_off = True
            self._tell(CalledOff())
        worker.call_off()

    def _kill(self, worker: Worker) -> bool:
        killed = worker.kill()
        self._look()
        if killed:
            self.kills.append(Killed(worker.process.pid, self._phase(), len(self.lines)))
            self._tell(self.kills[-1])
        return killed

    def _phase(self) -> Phase:
        if self._called_off:
            return "unwinding"
        return "waiting" if len(self.lines) >= HANGS else "booking"


def tail(log: Path, lines: int = 25) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
