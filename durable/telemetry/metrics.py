"""What an engine counts and measures.

Events drive the counters and histograms; gauges are computed when somebody asks, so nothing is polled. Labels are
services, handlers, statuses and the like, and never keys, ids or names of steps. Handlers beyond `TARGETS_MAX` are
"other".
"""

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter

from durable.core.effects import Failed, Then
from durable.core.invocation import Invocation, Submission
from durable.core.journal import Outcome, failure_of
from durable.runtime.observer import Observer
from durable.telemetry.families import Distribution, Family, Labels, Measured

#: How many handlers are told apart.
TARGETS_MAX = 200
OTHER = "other"
#: From a quarter of a millisecond to a minute; and to a week, for what may wait.
SHORT = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LONG = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0, 604800.0)
SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)

ACCEPTED = Family("durable.invocations.accepted", "counter", "Invocations accepted.", "{invocation}", ("target",))
COMPLETED = Family(
    "durable.invocations.completed", "counter",
    "Invocations that have ended, by outcome: success, error, cancelled, killed.", "{invocation}",
    ("target", "outcome"),
)  # fmt: skip
PAUSED = Family(
    "durable.invocations.paused", "counter", "Times an invocation was paused.", "{invocation}", ("target",)
)
ATTEMPTS = Family(
    "durable.attempts", "counter",
    "Attempts that have ended, by result: finished, failed, suspended, unloaded, ended, lost.", "{attempt}",
    ("target", "result"),
)  # fmt: skip
RETRIES = Family(
    "durable.retries", "counter", "Failures after which another attempt follows.", "{retry}", ("target",)
)
STEPS = Family(
    "durable.step.duration", "histogram", "Executions of steps, by outcome: success, error.", "s",
    ("target", "outcome"), SHORT,
)  # fmt: skip
INVOCATIONS = Family(
    "durable.invocation.duration",
    "histogram",
    "Time from acceptance to the outcome.",
    "s",
    ("target", "outcome"),
    LONG,
)
COMMITS = Family("durable.commit.duration", "histogram", "Time until a transaction is durable.", "s", (), SHORT)
COMMANDS = Family("durable.commit.commands", "histogram", "Commands in one transaction.", "{command}", (), SIZES)
ROWS = Family("durable.commit.rows", "histogram", "Rows in one transaction.", "{row}", (), SIZES)
#: What is counted of each handler from the beginning, with 0: Prometheus tells how much a counter has grown from the
#: second value that it has seen, so the first failure of a handler would be none.
FROM_THE_START = {
    ACCEPTED: ((),),
    COMPLETED: (("success",), ("error",), ("cancelled",), ("killed",)),
    PAUSED: ((),),
    ATTEMPTS: (("finished",), ("failed",), ("suspended",), ("unloaded",), ("ended",), ("lost",)),
    RETRIES: ((),),
}
#: What is told by events.
TOLD = (ACCEPTED, COMPLETED, PAUSED, ATTEMPTS, RETRIES, STEPS, INVOCATIONS, COMMITS, COMMANDS, ROWS)

#: What is computed when it is asked for.
OPEN = Family(
    "durable.invocations.open", "gauge", "Invocations that have not ended, by status.", "{invocation}",
    ("target", "status"),
)  # fmt: skip
OLDEST = Family(
    "durable.invocations.oldest.age",
    "gauge",
    "How long ago the oldest in each status was accepted.",
    "s",
    ("status",),
)
TIMERS = Family("durable.timers.pending", "gauge", "Stored timers.", "{timer}")
QUEUED = Family("durable.commands.queued", "gauge", "Commands that no transaction has taken yet.", "{command}")
SLOTS = Family("durable.slots", "gauge", "Slots in which handlers run: used and free.", "{slot}", ("state",))
THREADS = Family(
    "durable.step.threads",
    "gauge",
    "Plain steps by the state of their thread: running, waiting for one, given-up.",
    "{step}",
    ("state",),
)
WAL = Family("durable.wal.size", "gauge", "Size of the write-ahead log.", "By")
FILE = Family("durable.database.size", "gauge", "Size of the database without its write-ahead log.", "By")
DISK = Family("durable.disk.free", "gauge", "Free space on its disk.", "By")
LAG = Family(
    "durable.kafka.lag",
    "gauge",
    "Records in the topic that were not taken yet.",
    "{record}",
    ("subscription", "source"),
)
TAKEN = Family(
    "durable.kafka.records", "counter", "Records taken, by all of its group.", "{record}", ("subscription", "source")
)
ENGINE = Family(
    "durable.engine.info", "gauge", "Always 1; the labels say what this engine is.", "", ("version", "role")
)
ASKED = (OPEN, OLDEST, TIMERS, QUEUED, SLOTS, THREADS, WAL, FILE, DISK, LAG, TAKEN, ENGINE)

#: Where values of histograms go besides: a family, a value, its labels.
Record = Callable[[Family, float, Labels], None]


class Metrics(Observer):
    """Counts what an engine does. `gauges` adds the rest whenever `measured` is called, on that thread.

    `handlers` are the engine's handlers, by service and name.
    """

    def __init__(
        self,
        gauges: Callable[["Targets"], Iterable[Measured]] = lambda targets: (),
        handlers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._gauges = gauges
        self.targets = Targets()
        names = list(dict.fromkeys(self.targets.name(*one) for one in handlers))
        self._counters: dict[Family, dict[Labels, float]] = {
            family: {(name, *label): 0 for name in names for label in labels}
            for family, labels in FROM_THE_START.items()
        }
        self._histograms: dict[Family, dict[Labels, Distribution]] = {
            one: {} for one in TOLD if one.kind == "histogram"
        }
        self._begun: dict[tuple[str, int], float] = {}
        #: Set by whoever wants to have each value.
        self.record: Record | None = None

    # ---- what is told ----

    def told(self) -> Iterator[Measured]:
        """The counters and histograms. Can be called from any thread."""
        for family in TOLD:
            if family.kind == "counter":
                yield Measured(family, {**self._counters[family]})
            else:
                found = self._histograms[family].copy()
                yield Measured(family, {of: Distribution([*one.counts], one.sum) for of, one in found.items()})

    def measured(self) -> list[Measured]:
        """All metrics. Can be called from any thread, and raises nothing: what cannot be read is left out."""
        return [*self.told(), *self._gauges(self.targets)]

    def _count(self, family: Family, labels: Labels) -> None:
        counted = self._counters[family]
        counted[labels] = counted.get(labels, 0) + 1

    def _add(self, family: Family, value: float, labels: Labels = ()) -> None:
        points = self._histograms[family]
        point = points.get(labels)
        if point is None:
            point = points[labels] = Distribution([0] * (len(family.bounds) + 1))
        point.add(value, family.bounds)
        if self.record is not None:
            self.record(family, value, labels)

    # ---- events ----

    def engine_stopped(self) -> None:
        """Forget what was running: nothing more is told of it."""
        self._begun.clear()

    def turn_committed(self, commands: int, rows: int, seconds: float) -> None:
        """Count a transaction that had rows to write."""
        if rows:
            self._add(COMMITS, seconds)
            self._add(COMMANDS, commands)
            self._add(ROWS, rows)

    def invocation_accepted(self, submission: Submission, created_at: int) -> None:
        """Count it."""
        self._count(ACCEPTED, (self.targets.of(submission),))

    def invocation_paused(self, submission: Submission) -> None:
        """Count it."""
        self._count(PAUSED, (self.targets.of(submission),))

    def invocation_ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """Count it, and how long it took."""
        how = "success"
        if not outcome.ok:
            kind = failure_of(outcome).kind
            how = kind if kind in ("cancelled", "killed") else "error"
        labels = (self.targets.of(invocation.submission), how)
        self._count(COMPLETED, labels)
        lasted = (invocation.completed_at or invocation.created_at) - invocation.created_at
        self._add(INVOCATIONS, lasted / 1000, labels)

    def attempt_ended(self, submission: Submission, attempt: int, how: str, error: BaseException | None) -> None:
        """Count it."""
        self._count(ATTEMPTS, (self.targets.of(submission), how))

    def attempt_lost(self, submission: Submission, attempt: int) -> None:
        """Count an attempt that no other event counts."""
        self._count(ATTEMPTS, (self.targets.of(submission), "lost"))

    def attempt_failed(self, failed: Failed) -> None:
        """Count a retry, if one follows."""
        if failed.then is Then.RETRY:
            self._count(RETRIES, (self.targets.of(failed.invocation.submission),))

    def step_started(self, submission: Submission, attempt: int, entry: int, name: str) -> None:
        """Note when the step began."""
        self._begun[submission.id, entry] = perf_counter()

    def step_ended(
        self, submission: Submission, attempt: int, entry: int, name: str, error: BaseException | None
    ) -> None:
        """Count it, and how long it took."""
        began = self._begun.pop((submission.id, entry), None)
        if began is not None:
            outcome = "success" if error is None else "error"
            self._add(STEPS, perf_counter() - began, (self.targets.of(submission), outcome))


class Targets:
    """Labels for handlers, without keys. All handlers after the first `TARGETS_MAX` share one."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def of(self, submission: Submission) -> str:
        """The label of an invocation's handler."""
        return self._names.get((submission.service, submission.handler)) or self.name(
            submission.service, submission.handler
        )

    def name(self, service: str, handler: str) -> str:
        """The label of a handler."""
        name = self._names.get((service, handler))
        if name is None:
            if len(self._names) >= TARGETS_MAX:
                return OTHER
            name = self._names[service, handler] = f"{service}/{handler}"
        return name
