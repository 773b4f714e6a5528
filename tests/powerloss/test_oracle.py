"""The oracle sees a broken promise, and no other."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.powerloss.oracle import Facts, Mark, Violation
from tests.powerloss.plants import DATABASE
from tests.powerloss.survive import keys_are_known, nothing_is_in_clear
from tests.powerloss.workload import SECRET, engine_on, plan

TOLD: list[Mark] = [
    ["life", "work"],
    ["try", 1],
    ["accepted", 1, "inv"],
    ["ran", "inv", "one"],
    ["saw", "inv", "one", "t"],
]


def facts(*marks: Mark) -> Facts:
    found = Facts()
    for mark in [*TOLD, *marks]:
        found.take(mark)
    return found


def test_what_was_not_told_may_be_lost() -> None:
    facts(["try", 2], ["missing", 2], ["ran", "inv", "two"], ["life", "again"], ["ran", "inv", "two"], ["there", 1])


BROKEN: list[list[Mark]] = [
    [["missing", 1]],
    [["accepted", 1, "another"]],
    [["told", 1, "x"], ["there", 1]],
    [["told", 1, "x"], ["missing", 1]],
    [["told", 1, "x"], ["told", 1, "y"]],
    [["ran", "inv", "one"]],
    [["saw", "inv", "one", "another"]],
    [["ran", "inv", "two"], ["ran", "inv", "two"], ["ran", "inv", "two"]],
    [["counted", "a", 2], ["counted", "a", 1]],
    [["completing", 1, "yes"], ["completed", 1, "yes"], ["told", 1, "no"]],
    [["told", 1, "x"], ["purging", 1], ["purged", 1], ["told", 1, "x"]],
    [["told", 1, "x"], ["purging", 1], ["purged", 1], ["there", 1]],
    [["setting", 2], ["set", 2], ["option", 1]],
    [["setting", 2], ["option", 3]],
    [
        ["backing-up", "b"],
        ["backed-up", "b"],
        ["try", 2],
        ["accepted", 2, "i"],
        ["restored", "b", "a"],
        ["missing", 1],
    ],
]


@pytest.mark.parametrize("marks", BROKEN)
def test_a_broken_promise_is_seen(marks: list[Mark]) -> None:
    with pytest.raises(Violation):
        facts(*marks)
    facts(*marks[:-1])  # and nothing before it was one


def test_after_a_restore_only_what_was_told_before_the_backup_holds() -> None:
    marks: list[Mark] = [
        *(["backing-up", "b"], ["told", 1, "x"], ["backed-up", "b"]),
        *(["try", 2], ["accepted", 2, "i"], ["counted", "a", 5], ["restoring", "b"], ["restored", "b", "a"]),
    ]
    facts(*marks, ["missing", 2], ["counted", "a", 1], ["there", 1], ["told", 1, "y"])
    with pytest.raises(Violation):
        facts(*marks, ["missing", 1])


def test_without_promises_anything_asked_for_may_be_there_or_not() -> None:
    left = facts(["told", 1, "x"]).without_promises()
    left.take(["missing", 1])
    left.take(["told", 1, "y"])
    assert left.tried == {1}


def test_the_end_is_compared_with_the_model() -> None:
    whole = facts(["told", 1, "x"], ["counted", "a", 3])
    whole.finished({"a": 3}, [])
    for counts, unfinished in (({"a": 4}, []), ({"a": 3}, ["inv"])):
        with pytest.raises(Violation):
            whole.finished(counts, unfinished)
    with pytest.raises(Violation):
        facts(["told", 1, "x"], ["try", 2]).finished({}, [])


def test_another_way_from_here_leaves_this_one_as_it_is() -> None:
    one = facts()
    other = one.copy()
    other.take(["told", 1, "x"])
    other.take(["backing-up", "b"])
    other.take(["ran", "inv", "two"])
    assert one.told == {} and one.backing_up == {} and one.ran == {("inv", "one"): 1}


def test_a_value_in_clear_and_a_key_that_is_not_noted_are_seen(tmp_path: Path) -> None:
    async def work() -> None:
        async with engine_on(tmp_path, "NORMAL", "encoded", keys=1) as engine:
            await engine.call("Work/draw", plan(0, 0))

    asyncio.run(work())
    nothing_is_in_clear({DATABASE: (tmp_path / DATABASE).read_bytes()})
    with pytest.raises(Violation, match="a value in clear"):
        nothing_is_in_clear({"app.db": b"", "app.db-wal": b"frame" + SECRET})
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        keys_are_known(database, "")
        keys_are_known(database, "k1")
        with pytest.raises(Violation, match=r"need the keys {'k1'}, and all was encoded with k2"):
            keys_are_known(database, "k2")
        database.execute("DELETE FROM codec_keys")
        with pytest.raises(Violation, match="are noted"):
            keys_are_known(database, "")
