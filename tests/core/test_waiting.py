"""What a handler waits for: taking entries away one by one must come true exactly when the expression does."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import DurableFuture, Duration, gather, select, wait_completed
from durable.callbacks import Listener
from durable.core.journal import EMPTY, Failure, Kind
from durable.core.waiting import Awaited, Group, decode, encode, entries

ENTRIES = st.integers(1, 6)
NODES: st.SearchStrategy[int | Group] = st.recursive(
    ENTRIES,
    lambda nodes: st.builds(
        Group, st.sampled_from(["any", "all"]), st.lists(nodes, min_size=1, max_size=4).map(tuple), st.booleans()
    ),
    max_leaves=12,
)
#: What completes, in that order, and whether it is a success.
ARRIVALS = st.builds(
    lambda order, successes: [(entry, bool(successes >> entry & 1)) for entry in order],
    st.permutations(range(1, 7)),
    st.integers(0, 127),
)
few = settings(max_examples=25)


def reduce(node: int | Group, entry: int, ok: bool) -> int | Group | None:
    waiting = Awaited(node)
    changed = waiting.came(entry, ok)
    assert changed == (waiting.node != node)
    assert waiting.over == (waiting.node is None)
    return waiting.node


def holds(node: int | Group, arrived: set[int]) -> bool:
    """Whether an expression is true, from its meaning (and as if nothing failed fast)."""
    if isinstance(node, int):
        return node in arrived
    return (any if node.mode == "any" else all)(holds(child, arrived) for child in node.nodes)


def left_after(node: int | Group, arrivals: list[tuple[int, bool]]) -> int | Group | None:
    """Taken away in memory, and with the expression stored and read again after each."""
    waiting, left = Awaited(node), node
    for entry, ok in arrivals:
        waiting.came(entry, ok)
        after = reduce(left, entry, ok)
        assert waiting.node == after
        if after is None:
            return None
        left = after
    return left


def without_fail_fast(node: int | Group) -> int | Group:
    if isinstance(node, int):
        return node
    return Group(node.mode, tuple(without_fail_fast(child) for child in node.nodes))


@few
@given(NODES, ARRIVALS)
def test_it_has_come_true_exactly_when_the_expression_is_true(
    node: int | Group, arrivals: list[tuple[int, bool]]
) -> None:
    plain = without_fail_fast(node)
    for count in range(len(arrivals) + 1):
        arrived = {entry for entry, _ in arrivals[:count]}
        assert (left_after(plain, arrivals[:count]) is None) == holds(plain, arrived)


@few
@given(NODES, ARRIVALS)
def test_with_all_entries_it_has_come_true(node: int | Group, arrivals: list[tuple[int, bool]]) -> None:
    assert left_after(node, arrivals) is None


@few
@given(st.lists(ENTRIES, min_size=1, max_size=4).map(tuple), ARRIVALS)
def test_a_gather_of_entries_is_done_with_its_first_failure_or_with_all(
    members: tuple[int, ...], arrivals: list[tuple[int, bool]]
) -> None:
    for count in range(len(arrivals) + 1):
        arrived = dict(arrivals[:count])
        done = any(arrived.get(member) is False for member in members) or all(member in arrived for member in members)
        assert (left_after(Group("all", members, fail_fast=True), arrivals[:count]) is None) == done


@few
@given(NODES, ARRIVALS)
def test_failing_fast_is_never_later(node: int | Group, arrivals: list[tuple[int, bool]]) -> None:
    for count in range(len(arrivals) + 1):
        if left_after(without_fail_fast(node), arrivals[:count]) is None:
            assert left_after(node, arrivals[:count]) is None


@few
@given(NODES, ENTRIES, st.booleans())
def test_what_is_left_mentions_only_what_was_there_and_not_what_arrived(
    node: int | Group, entry: int, ok: bool
) -> None:
    left = reduce(node, entry, ok)
    if left is not None:
        assert entry not in entries(left)
        assert set(entries(left)) <= set(entries(node))


@few
@given(NODES, st.integers(7, 9), st.booleans())
def test_an_entry_it_does_not_mention_changes_nothing(node: int | Group, entry: int, ok: bool) -> None:
    assert reduce(node, entry, ok) == node


@few
@given(NODES)
def test_it_is_read_back_as_it_was_written(node: int | Group) -> None:
    assert decode(encode(node)) == node


class Leaves:
    """Makes the futures of a pretended attempt, and completes them."""

    def __init__(self) -> None:
        self.all: list[DurableFuture[Any]] = []

    def leaf(self) -> DurableFuture[Any]:
        self.all.append(DurableFuture(self, len(self.all) + 1, Kind.AWAKEABLE, None))
        return self.all[-1]

    def sleep(self, duration: Duration, name: str) -> DurableFuture[None]:
        return self.leaf()

    @property
    def listener(self) -> Listener:
        raise NotImplementedError

    def wait(self, future: DurableFuture[Any]) -> Generator[Any, None, Any]:
        raise NotImplementedError

    def made(self, one: Any, depth: int, /) -> None:
        """Nobody asks what was forgotten."""

    def raises(self) -> None:
        """Nor what was left because of an error."""


Make = Callable[[Leaves], DurableFuture[Any]]


def combined(members: st.SearchStrategy[Make]) -> st.SearchStrategy[Make]:
    several = st.lists(members, min_size=1, max_size=3)

    def making(combine: Callable[[list[DurableFuture[Any]]], DurableFuture[Any]]) -> Callable[[list[Make]], Make]:
        return lambda makes: lambda leaves: combine([make(leaves) for make in makes])

    return st.one_of(
        several.map(making(lambda futures: gather(*futures))),
        several.map(making(lambda futures: gather(*futures, return_exceptions=True))),
        several.map(making(lambda futures: select(**{f"f{at}": future for at, future in enumerate(futures)}))),
        several.map(making(lambda futures: wait_completed(*futures))),
        members.map(lambda make: lambda leaves: make(leaves).with_timeout(1)),
    )


@few
@given(st.recursive(st.just(Leaves.leaf), combined, max_leaves=8), st.data())
def test_a_suspended_handler_never_waits_for_what_would_let_a_live_one_go_on(make: Make, data: st.DataObject) -> None:
    leaves = Leaves()
    future = make(leaves)
    waiting: int | Group | None = future.waiting_for()
    for rank, leaf in enumerate(data.draw(st.permutations(leaves.all)), 1):
        ok = data.draw(st.booleans())
        leaf.complete(EMPTY if ok else Failure("no").outcome(), rank)
        if waiting is not None:
            waiting = reduce(waiting, leaf.entry, ok)
        if future.completed:
            assert waiting is None
            break


def test_a_gather_wakes_when_a_member_with_a_time_out_times_out() -> None:
    leaves = Leaves()
    guarded, other = leaves.leaf().with_timeout("1s"), leaves.leaf()
    assert reduce(gather(guarded, other).waiting_for(), 2, True) is None


def test_gather_of_three_fails_with_the_first_failure() -> None:
    gathered = Group("all", (1, 2, 3), fail_fast=True)
    assert reduce(gathered, 2, True) == Group("all", (1, 3), fail_fast=True)
    assert reduce(gathered, 2, False) is None


def test_gathering_exceptions_waits_for_all() -> None:
    assert reduce(Group("all", (1, 2)), 2, False) == Group("all", (1,))


def test_a_select_over_gathers_is_done_with_one_of_them() -> None:
    either = Group("any", (Group("all", (1, 2)), Group("all", (3, 4))))
    left = reduce(either, 1, True)
    assert left == Group("any", (Group("all", (2,)), Group("all", (3, 4))))
    assert left is not None
    assert reduce(left, 4, True) == Group("any", (Group("all", (2,)), Group("all", (3,))))
    assert reduce(left, 2, True) is None


def test_a_time_out_around_a_gather_that_fails_fast_ends_with_its_failure() -> None:
    guarded = Group("any", (Group("all", (1, 2), fail_fast=True), 3))
    assert reduce(guarded, 1, False) is None


def test_a_large_gather_is_taken_apart_one_by_one() -> None:
    left = Awaited(Group("all", tuple(range(1, 1001))))
    for entry in range(1, 1001):
        assert left.entries()[0] == entry
        left.came(entry, True)
    assert left.over


@few
@given(NODES, ARRIVALS)
def test_what_is_stored_now_and_then_comes_to_the_same_with_what_is_open(
    node: int | Group, arrivals: list[tuple[int, bool]]
) -> None:
    """A long expression is not stored each time. Whoever reads it again takes away what is not open any more."""
    waiting, stored, is_open = Awaited(node), node, set(range(1, 7))
    for entry, ok in arrivals:
        is_open.discard(entry)
        waiting.came(entry, ok)
        if waiting.over:
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("durable.core.waiting.SHORT", 0)
            if waiting.worth_storing():
                assert waiting.node is not None
                stored = waiting.node
        again = Awaited(stored)
        again.without(is_open)
        assert again == waiting


def test_a_long_expression_is_stored_as_often_as_half_of_it_has_come() -> None:
    waiting, stored = Awaited(Group("all", tuple(range(1, 1001)))), 0
    for entry in range(1, 900):
        waiting.came(entry, True)
        stored += waiting.worth_storing()
    assert stored == 3


def test_an_empty_group_waits_for_nothing() -> None:
    assert Awaited(Group("any", (Group("all", ()), 1))).over
    assert Awaited(Group("all", (Group("any", ()), 1))).node == Group("all", (1,))
