"""Children that are killed, and what must hold of what they leave behind."""

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from durable.core.ids import parse_awakeable_id
from tests.process.nursery import Born, Nursery
from tests.process.workload import Job, adds_of, handlers_of, plan

ROOT = Path(__file__).parents[2]
#: How long anything may take before a test gives up.
PATIENCE_S = 60.0
#: What the log says of an attempt that ran when one process after the other was killed.
MET_BY_KILLS = "the process ended without a clean close while attempt"


class Child:
    """A Python process, or one that a nursery forks. Leaving the block kills it."""

    process: "subprocess.Popen[bytes] | Born"

    def __init__(
        self,
        *arguments: object,
        errors: Path,
        environment: dict[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        self._errors = errors
        #: Every line it has printed.
        self.said: list[str] = []
        with errors.open("ab") as stderr:
            if nursery is not None:
                self.process = Born(nursery, list(map(str, arguments)), stderr)
                return
            self.process = subprocess.Popen(
                [sys.executable, "-W", "default", *map(str, arguments)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            )

    def tell(self, line: str) -> None:
        """Write a line to it. A child that is dead does not mind."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def wait_for(self, start: str) -> str:
        """Read its lines until one starts like this."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        while select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            line = self.process.stdout.readline().decode().rstrip("\n")
            if not line:
                raise AssertionError(f"the child ended by itself ({self.process.wait()}): {self.complaints()}")
            self.said.append(line)
            if line.startswith(start):
                return line
        raise AssertionError(f"the child did not say {start!r} within {PATIENCE_S} s, but {self.said}")

    def wait(self, seconds: float) -> None:
        """Let it live that long, unless it ends before; it has said all it had to say."""
        assert self.process.stdout is not None
        select.select([self.process.stdout], [], [], seconds)

    def kill(self) -> None:
        """SIGKILL, and read what it still had said."""
        self.process.send_signal(signal.SIGKILL)
        self._end()
        code = self.process.returncode
        assert code == -signal.SIGKILL, f"the child ended by itself ({code}): {self.complaints()}"

    def leave(self, *, after_kills: bool = False) -> None:
        """Wait until it ends by itself: in good order, and without a word on stderr.

        `after_kills`: whose attempts several kills met in a row may be suspects, and the log says so.
        """
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"I7 violated: the child does not come to an end; {self.complaints()}") from None
        self._end()
        assert self.process.returncode == 0, f"the child failed ({self.process.returncode}): {self.complaints()}"
        said = [line for line in self.complaints().splitlines() if not (after_kills and MET_BY_KILLS in line)]
        assert not said, f"I9 violated: {said}"

    def complaints(self) -> str:
        """What stands on stderr."""
        return self._errors.read_text("utf-8", "replace")[-4000:]

    def _end(self) -> None:
        assert self.process.stdout is not None and self.process.stdin is not None
        self.process.wait()
        if not self.process.stdout.closed:
            self.said += self.process.stdout.read().decode().splitlines()
        self.process.stdout.close()
        self.process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self._end()


def look(database: Path) -> sqlite3.Connection:
    """The file of a dead engine, read only: the WAL stays as it is, for the next engine to recover."""
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)


# ---- what test_kill's workload leaves behind ----

#: (invocation id, name of the step or sleep)
Name = tuple[str, str]


class Stamp(NamedTuple):
    """A line of EFFECTS."""

    what: str
    id: str
    label: str
    attempt: int
    pid: int
    ms: int
    rest: str

    @property
    def name(self) -> Name:
        """Which step."""
        return self.id, self.label


class Invocation(NamedTuple):
    """Some columns of a row."""

    seq: int
    id: str
    handler: str
    key: str | None
    input: bytes
    status: str
    ok: bool | None
    output: bytes | None


class Entry(NamedTuple):
    """A journal entry, its command and its completion."""

    kind: str
    #: A sleep's due time.
    detail: str
    ok: bool | None
    value: bytes | None
    completed_at: int


class Witness:
    """Follows one database through all its kills, and knows what must not be.

    `after_kill` compares what the dead engine did outside with what it has committed; `whole_file` reads all of the
    file; `at_end` is for a file on which everything is done.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.database, self.effects, self.acks = folder / "db", folder / "effects", folder / "acks"
        self.seed = seed
        #: What happened how often.
        self.seen: Counter[str] = Counter()
        self.invocations: dict[str, Invocation] = {}
        #: Steps and sleeps that have an outcome, as they were when they were first found.
        self.recorded: dict[Name, Entry] = {}
        self.sleeps: dict[Name, Entry] = {}
        self.executions: Counter[Name] = Counter()
        self.failures: Counter[Name] = Counter()
        #: Kills that hit a step while it had no recorded outcome.
        self.kills_while_open: Counter[Name] = Counter()
        #: Every step's first beginning, by invocation, in order.
        self.began: defaultdict[str, list[str]] = defaultdict(list)
        #: The exclusive handlers of each key in the order in which their bodies were first opened.
        self.opened: defaultdict[str, list[str]] = defaultdict(list)
        self.acknowledged: dict[int, str] = {}
        self._won: dict[Name, str] = {}
        self._attempts: dict[str, int] = {}
        self._offsets: dict[Path, int] = {}
        self._low = 0

    # ---- after every kill ----

    def after_kill(self, pid: int, killed_at_ms: int) -> bool:
        """Check one engine's life against what it left. Returns whether it had done anything."""
        if not self.database.exists():
            return False
        stamps = [_stamp(line) for line in self._new_lines(self.effects)]
        promises = self._new_lines(self.acks)
        self._nothing_recorded_runs_again(stamps)
        with closing(look(self.database)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
                assert not stamps and not promises, "work was done before there was a journal"
                return False
            fresh = self._read(database)
            soon = (killed_at_ms, killed_at_ms + 10_000)
            sql = "SELECT count(*) FROM _timers WHERE entry > 0 AND due_at BETWEEN ? AND ?"
            sleeping = database.execute(sql, soon).fetchone()[0]
        self._what_was_done_is_recorded(stamps, fresh)
        self._what_was_promised_is_stored(promises)
        self._one_body_per_key(stamps)
        self._attempts_only_grow(stamps, pid)
        self._nothing_fired_early(stamps)
        self._the_same_won(stamps)
        self._count(stamps, sleeping)
        return bool(stamps)

    def _new_lines(self, path: Path) -> list[str]:
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            text = file.read()
        self._offsets[path] = self._offsets.get(path, 0) + len(text)
        assert not text or text.endswith(b"\n"), f"half a line at the end of {path}"
        return text.decode().splitlines()

    def _nothing_recorded_runs_again(self, stamps: Sequence[Stamp]) -> None:
        """I2: a step with a recorded outcome never begins, and within one engine only a failed one begins again."""
        balance: Counter[Name] = Counter()
        for stamp in stamps:
            if stamp.what == "begin":
                entry = self.recorded.get(stamp.name)
                assert entry is None, f"I2 violated: {stamp} ran again, though {entry} was recorded"
                self.executions[stamp.name] += 1
                self.seen["steps executed"] += 1
                balance[stamp.name] += 1
                assert balance[stamp.name] <= 1, f"I2 violated: {stamp} ran twice in one engine without a failure"
                if self.executions[stamp.name] == 1:
                    self.began[stamp.id].append(stamp.label)
            elif stamp.what == "fail":
                self.failures[stamp.name] += 1
                balance[stamp.name] -= 1
        for name in {stamp.name for stamp in stamps if stamp.what == "begin"}:
            allowed = 1 + self.kills_while_open[name] + self.failures[name]
            assert self.executions[name] <= allowed, f"I2 violated: {name} ran {self.executions[name]} times"

    def _read(self, database: sqlite3.Connection) -> dict[Name, Entry]:
        """Take in everything since the last look; return the steps that were recorded since."""
        found = _invocations(database, self._low)
        for invocation in found:
            before = self.invocations.get(invocation.id)
            if before is not None and before.status == "completed":
                assert before == invocation, f"I5 violated: {before} has become {invocation}"
            self.invocations[invocation.id] = invocation
        self._low = min((one.seq for one in found if one.status != "completed"), default=self._low)
        fresh: dict[Name, Entry] = {}
        for name, entry in _entries(database, found):
            if entry.kind == "sleep":
                due = self.sleeps[name].detail if name in self.sleeps else entry.detail
                assert due == entry.detail, f"I6 violated: the due time of {name} has moved: {due}, {entry.detail}"
                self.sleeps[name] = entry
            elif entry.kind == "run" and entry.ok is not None:
                if name not in self.recorded:
                    fresh[name] = entry
                before_this = self.recorded.setdefault(name, entry)
                assert before_this == entry, f"I2 violated: {name} was {before_this} and is {entry}"
        return fresh

    def _what_was_done_is_recorded(self, stamps: Sequence[Stamp], fresh: dict[Name, Entry]) -> None:
        """I2: what a handler has seen is recorded; what is recorded was executed, and gave just that."""
        tokens: defaultdict[Name, set[str]] = defaultdict(set)
        for stamp in stamps:
            assert stamp.id in self.invocations, f"I1 violated: {stamp} belongs to no accepted invocation"
            if stamp.what == "end":
                tokens[stamp.name].add(stamp.rest)
            elif stamp.what == "saw":
                entry = self.recorded.get(stamp.name)
                assert entry is not None, f"I2 violated: {stamp} was shown to the handler and is not recorded"
                assert _value(entry) == stamp.rest, f"I2 violated: {stamp} was shown, {entry} is recorded"
        for name, entry in fresh.items():
            if entry.ok:
                assert _value(entry) in tokens[name], f"I2 violated: {name} has {entry}, executed were {tokens[name]}"
            else:
                assert self.failures[name], f"I2 violated: {name} has {entry} and never failed"
        for name in {stamp.name for stamp in stamps if stamp.what == "begin"}:
            if name not in self.recorded:
                self.kills_while_open[name] += 1

    def _what_was_promised_is_stored(self, promises: Sequence[str]) -> None:
        """I1: who was told an id finds it. I5: what was told is what is stored, whoever was told."""
        for line in promises:
            what, job, id, *told = line.split(" ", 4)
            invocation = self.invocations.get(id)
            assert invocation is not None, f"I1 violated: {line!r} was acknowledged and is not stored"
            self.acknowledged[int(job)] = id
            if what == "ack":
                self.seen["acknowledged"] += 1
                continue
            assert invocation.status == "completed", f"I5 violated: {line!r} was told, {invocation} is stored"
            assert invocation.output is not None
            stored = json.loads(invocation.output)
            if not invocation.ok:
                stored = {"message": stored["message"], "code": stored.get("code", 500)}
            same = (told[0] == "ok") == invocation.ok and json.loads(told[1]) == stored
            assert same, f"I5 violated: {line!r} was told, {invocation} is stored"
            self.seen["outcomes told"] += 1

    def _one_body_per_key(self, stamps: Sequence[Stamp]) -> None:
        """I4: the body of a key's exclusive handler is shut before the next one is opened."""
        holders: dict[str, Stamp] = {}
        for stamp in stamps:
            if stamp.what == "open":
                holder = holders.setdefault(stamp.label, stamp)
                assert holder is stamp, f"I4 violated: {stamp} while {holder} was open"
                if stamp.id not in self.opened[stamp.label]:
                    self.opened[stamp.label].append(stamp.id)
            elif stamp.what == "shut":
                holder = holders.pop(stamp.label)
                assert holder[1:4] == stamp[1:4], f"I4 violated: {holder} was shut by {stamp}"
        self.seen["kills while a key was held"] += bool(holders)

    def _attempts_only_grow(self, stamps: Sequence[Stamp], pid: int) -> None:
        """R-26: no engine acts before its attempt's number is committed, and no old attempt acts after a new one."""
        before, now = dict(self._attempts), self._attempts
        for stamp in stamps:
            assert stamp.pid == pid, f"{stamp} was written by another process than {pid}"
            if stamp.what in ("begin", "open", "woke", "saw"):
                last = now.get(stamp.id, 0)
                assert stamp.attempt >= last, f"R-26 violated: {stamp} after attempt {last}"
                assert stamp.attempt > before.get(stamp.id, 0), f"R-26 violated: {stamp} in a second engine"
                now[stamp.id] = stamp.attempt

    def _nothing_fired_early(self, stamps: Sequence[Stamp]) -> None:
        """I6: neither by the handler's clock nor by the journal's."""
        for stamp in stamps:
            if stamp.what != "woke":
                continue
            due = int(stamp.rest) if stamp.label == "start" else int(self.sleeps[stamp.name].detail)
            assert stamp.ms >= due - 1, f"I6 violated: {stamp} was due at {due}"  # two clocks, rounded down
            self.seen["timers fired"] += 1
            if stamp.label != "start":
                entry = self.sleeps[stamp.name]
                assert entry.ok, f"I6 violated: {stamp} woke, and its sleep is {entry}"
                assert entry.completed_at >= due, f"I6 violated: {entry} completed early"

    def _the_same_won(self, stamps: Sequence[Stamp]) -> None:
        """R-37: a race has the same winner in every attempt."""
        for stamp in stamps:
            if stamp.what == "won":
                winner = self._won.setdefault(stamp.name, stamp.rest)
                assert winner == stamp.rest, f"R-37 violated: {stamp}, before it was {winner}"
                self.seen[f"races won, {stamp.label}"] += 1

    def _count(self, stamps: Sequence[Stamp], sleeping: int) -> None:
        """I10: which faults have really happened."""
        last = {stamp.name: stamp.what for stamp in stamps if stamp.what in ("begin", "end", "fail")}
        ended = [name for name, what in last.items() if what == "end"]
        begun = {stamp.name for stamp in stamps if stamp.what == "begin"}
        statuses = {one.status for one in self.invocations.values() if one.seq >= self._low}
        seen = self.seen
        seen["kills during a step"] += "begin" in last.values()
        seen["kills between a step's end and its commit"] += any(name not in self.recorded for name in ended)
        seen["kills during a sleep"] += bool(sleeping)
        for status in ("suspended", "backing-off", "scheduled", "pending"):
            seen[f"kills while {status}"] += status in statuses
        seen["step failures"] += sum(stamp.what == "fail" for stamp in stamps)
        seen["retries"] += sum(self.failures[name] > 0 for name in begun)
        seen["steps executed again after a kill"] += sum(
            self.kills_while_open[name] > 0 and self.executions[name] > 1 for name in begun
        )

    # ---- now and then ----

    def whole_file(self) -> None:
        """I8: SQLite finds nothing wrong, nothing is an orphan, no journal has a hole; nothing has changed since."""
        with closing(look(self.database)) as database:
            found = [row[0] for row in database.execute("PRAGMA integrity_check")]
            assert found == ["ok"], f"I8 violated: {found}"
            for rule, sql in RULES.items():
                rows = database.execute(sql).fetchmany(5)
                assert not rows, f"{rule}: {rows}"
            everything = {one.id: one for one in _invocations(database, 0)}
            entries = dict(_entries(database, list(everything.values())))
        for id, known in self.invocations.items():
            assert id in everything, f"I1 violated: {known} is gone"
            if known.status == "completed":
                assert everything[id] == known, f"I5 violated: {known} has become {everything[id]}"
        for name, entry in self.recorded.items():
            assert entries[name] == entry, f"I2 violated: {name} was {entry} and is {entries[name]}"

    def unfinished(self) -> list[tuple[object, ...]]:
        """What is not completed, for a message."""
        sql = (
            "SELECT id, handler, key, status, attempt, due_at, queued, waiting_for, substr(last_failure, 1, 300)"
            " FROM _invocations WHERE status <> 'completed' ORDER BY seq"
        )
        with closing(look(self.database)) as database:
            return database.execute(sql).fetchmany(5)

    # ---- when everything is done ----

    def at_end(self, limit: int) -> None:
        """Every job below the limit is done, nothing else is, and the model agrees."""
        jobs = [plan(self.seed, number) for number in range(limit)]
        unfinished = [one for one in self.invocations.values() if one.status != "completed"]
        assert not unfinished, f"I7 violated: {unfinished[:3]} and {len(unfinished)} in all are unfinished"
        missing = set(range(limit)) - set(self.acknowledged)
        assert not missing, f"I1 violated: the jobs {missing} were never acknowledged"
        self._as_often_as_planned(jobs)
        self._counters_are_as_modelled(jobs)
        self._in_order_of_acceptance()
        self._results_are_as_modelled(jobs)
        self._sagas_are_undone()
        with closing(look(self.database)) as database:
            for table in ("_timers", "listeners", "signals"):
                left = database.execute(f"SELECT * FROM {table}").fetchmany(3)
                assert not left, f"I8 violated: everything is completed, and {table} has {left}"
        self.seen["completions"] = len(self.invocations)

    def _as_often_as_planned(self, jobs: Sequence[Job]) -> None:
        """I3: every call and every send has started one invocation."""
        planned = Counter(handler for job in jobs for handler in handlers_of(job))
        found = Counter(one.handler for one in self.invocations.values())
        assert found == planned, f"I3 violated: too many {found - planned}, missing {planned - found}"

    def _counters_are_as_modelled(self, jobs: Sequence[Job]) -> None:
        """I3: no addition was lost or doubled, and each one started where another had ended."""
        planned: Counter[str] = Counter()
        for job in jobs:
            for key, amount in adds_of(job):
                planned[key] += amount
        with closing(look(self.database)) as database:
            stored = database.execute("SELECT key, value FROM _state WHERE service = 'Counter' AND name = 'count'")
            found = {key: json.loads(value) for key, value in stored}
        assert found == dict(planned), f"I3 violated: counted {found}, planned were {dict(planned)}"
        for key, total in found.items():
            changes = sorted(
                (int(change["old"]), int(change["new"]))
                for one in self.invocations.values()
                if one.key == key and one.handler in ("add", "add_late")
                for change in [json.loads(one.output or b"")]
            )
            steps = [0, *(new for _, new in changes)]
            assert [old for old, _ in changes] == steps[:-1], f"I3 violated: {key} went {changes}"
            assert steps[-1] == total, f"I3 violated: {key} is {total} and went to {steps[-1]}"

    def _in_order_of_acceptance(self) -> None:
        """I4: of those that are queued when they are accepted."""
        for key, ids in self.opened.items():
            numbers = [self.invocations[id].seq for id in ids if self.invocations[id].handler == "add"]
            assert numbers == sorted(numbers), f"I4 violated: the bodies of {key} were opened in the order {numbers}"

    def _results_are_as_modelled(self, jobs: Sequence[Job]) -> None:
        """I5: an outcome is what its handler was bound to return; a token in it is the one that was recorded."""
        failed = {one.id for one in self.invocations.values() if not one.ok}
        declined = {self.acknowledged[job.number] for job in jobs if job.kind == "order" and job.amount % 2}
        victims = {one.id for one in self.invocations.values() if one.handler == "victim"}
        assert failed == declined | victims, (
            f"I5 violated: {failed ^ (declined | victims)} should have ended otherwise"
        )
        for one in self.invocations.values():
            told = json.loads(one.output or b"")
            if one.id in failed:
                expected = "cancelled" if one.id in victims else "declined"
                assert told["message"].startswith(expected), f"I5 violated: {one}"
            elif one.handler == "stamped":
                named = parse_awakeable_id(told.removeprefix("stamp of "))
                assert named is not None and named[:2] == (one.id, 1), f"I5 violated: {one}"
            elif one.handler == "regret":
                assert told == "cancelled", f"I5 violated: {one}"
            elif isinstance(told, dict) and "old" not in told:
                self._tokens_are_recorded(one, told)

    def _tokens_are_recorded(self, one: Invocation, told: dict[str, str]) -> None:
        for label, token in told.items():
            entry = self.recorded.get((one.id, label))
            if entry is not None:
                assert _value(entry) == token, f"I5 violated: {one} has {token}, {entry} is recorded"
        if one.handler == "shaky":
            tries, kills = self.failures[one.id, "never"], self.kills_while_open[one.id, "never"]
            assert 3 <= tries <= 3 + kills, f"C-079 violated: {one} tried {tries} times, with {kills} kills"
        self.seen["handlers whose tokens agree"] += 1

    def _sagas_are_undone(self) -> None:
        """C-059: in reverse order if it failed, not at all if it did not."""
        for one in self.invocations.values():
            if one.handler not in ("order", "victim"):
                continue
            undone = [label for label in self.began[one.id] if label.startswith("undo")]
            expected = [] if one.ok else ["undo_card", "undo_room"] if one.handler == "order" else ["undo_room"]
            assert undone == expected, f"C-059 violated: {one} was undone by {undone}"
            self.seen["sagas undone"] += bool(undone)


#: Queries that must find nothing, in a file at any moment.
RULES = {
    "I8 violated: journal rows without an invocation": (
        "SELECT * FROM journal WHERE invocation NOT IN (SELECT seq FROM _invocations)"
    ),
    "I8 violated: timers without an invocation": (
        "SELECT * FROM _timers WHERE seq NOT IN (SELECT seq FROM _invocations)"
    ),
    "I8 violated: listeners without an invocation": (
        "SELECT * FROM listeners WHERE seq NOT IN (SELECT seq FROM _invocations)"
    ),
    "I8 violated: signals without an invocation": (
        "SELECT * FROM signals WHERE seq NOT IN (SELECT seq FROM _invocations)"
    ),
    "I8 violated: answers without an invocation, or a workflow's promises": (
        "SELECT * FROM answered WHERE owner <> '' AND owner NOT LIKE 'promise/%'"
        " AND CAST(owner AS INTEGER) NOT IN (SELECT seq FROM _invocations)"
    ),
    "I8 violated: completions without a command": (
        "SELECT * FROM journal AS done WHERE part = 1 AND entry > 0 AND ordinal IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM journal WHERE invocation = done.invocation AND entry = done.entry AND part = 0)"
    ),
    "I2 violated: journals with holes": (
        "SELECT invocation, max(entry), count(*) FROM journal WHERE part = 0 AND entry > 0 GROUP BY invocation"
        " HAVING max(entry) <> count(*)"
    ),
    "I6 violated: waiting for a moment without a timer": (
        "SELECT seq, id, status, due_at FROM _invocations WHERE status IN ('scheduled', 'backing-off')"
        " AND NOT EXISTS (SELECT 1 FROM _timers WHERE _timers.seq = _invocations.seq AND entry = 0"
        " AND _timers.due_at = _invocations.due_at)"
    ),
    "I6 violated: an open sleep without a timer": (
        "SELECT slept.invocation, slept.entry FROM journal AS slept JOIN _invocations"
        " ON _invocations.seq = slept.invocation WHERE slept.kind = 'sleep' AND part = 0 AND status <> 'completed'"
        " AND NOT EXISTS (SELECT 1 FROM journal AS done"
        " WHERE done.invocation = slept.invocation AND done.entry = slept.entry AND done.part = 1)"
        " AND NOT EXISTS (SELECT 1 FROM _timers"
        " WHERE _timers.seq = slept.invocation AND _timers.entry = slept.entry AND due_at = CAST(detail AS INTEGER))"
    ),
    "I6 violated: timers of a completed invocation": (
        "SELECT _timers.* FROM _timers JOIN _invocations USING (seq) WHERE status = 'completed'"
    ),
    "I4 violated: a key with another number of holders than one": (
        "SELECT service, key, count(*) FROM _invocations WHERE queued IS NOT NULL GROUP BY service, key"
        " HAVING sum(status <> 'pending') <> 1"
    ),
    "I4 violated: a completed invocation in a queue": (
        "SELECT seq, id FROM _invocations WHERE status = 'completed' AND queued IS NOT NULL"
    ),
    "I5 violated: completed without an outcome, or an outcome before the end": (
        "SELECT seq, id FROM _invocations WHERE (status = 'completed') <> (ok IS NOT NULL)"
    ),
}


def _invocations(database: sqlite3.Connection, low: int) -> list[Invocation]:
    sql = "SELECT seq, id, handler, key, input, status, ok, output FROM _invocations WHERE seq >= ? ORDER BY seq"
    return [Invocation(*row) for row in database.execute(sql, (low,))]


def _entries(database: sqlite3.Connection, invocations: Sequence[Invocation]) -> list[tuple[Name, Entry]]:
    """The named steps and sleeps of these invocations, which are one range."""
    if not invocations:
        return []
    ids = {one.seq: one.id for one in invocations}
    sql = (
        "SELECT command.invocation, command.kind, command.name, command.detail,"
        " coalesce(done.ok, command.ok), coalesce(done.value, command.value), coalesce(done.at, command.at)"
        " FROM journal AS command LEFT JOIN journal AS done"
        " ON done.invocation = command.invocation AND done.entry = command.entry AND done.part = 1"
        " WHERE command.invocation >= ? AND command.part = 0 AND command.kind IN ('run', 'sleep')"
    )
    return [
        ((ids[seq], name), Entry(kind, detail or "", None if ok is None else bool(ok), value, at))
        for seq, kind, name, detail, ok, value, at in database.execute(sql, (min(ids),))
    ]


def _stamp(line: str) -> Stamp:
    what, id, label, attempt, pid, ms, rest = line.split(" ", 6)
    return Stamp(what, id, label, int(attempt), int(pid), int(ms), rest)


def _value(entry: Entry) -> Any:
    return json.loads(entry.value or b"null") if entry.ok else None
