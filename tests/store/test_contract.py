"""What every store does: the same tests for the one in memory and the one on SQLite."""

import os
import unicodedata
from typing import Any

import msgspec
import pytest
from anyio import to_thread

from durable.core.alike import Alike, InLine
from durable.core.effects import Need, Timer, Writes
from durable.core.ids import invocation_id
from durable.core.invocation import Caller, Flavor, Invocation, Open, Problem, Signal, Status, Submission
from durable.core.journal import CANCELLED, COMPLETION, EMPTY, INTERRUPTIBLE, KILLED, Kind, Outcome, Row
from durable.core.once import Answered, Place
from durable.core.sources import Cluster, GroupPartition, Position, Subscription
from durable.core.topics import promise_topic
from durable.core.waiting import Awaited, Group
from durable.errors import EngineNotRunningError, StorageError
from durable.store import CommitRefused, Store
from durable.store.filter import Backlog, Filter, Waiting, matches
from durable.store.rows import attach_journal
from durable.views.invocations import view_of
from tests.store.support import DAY, NOW, Stores, a_completed, a_row, an_invocation, opened, play, using

VALUE = Outcome(True, b'"value"')
#: Around the number of rows that go into one statement (128), and around powers of two.
COUNTS = [1, 2, 3, 127, 128, 129, 255, 257, 300]


async def loaded(store: Store, seq: int) -> Invocation:
    """The one invocation with this number."""
    found = (await store.load(Need(seqs={seq}))).invocations
    assert [one.seq for one in found] == [seq]
    return found[0]


# ---- invocations ----


def test_an_empty_store_starts_all_numbers(stores: Stores) -> None:
    async def story() -> None:
        async with opened(stores()) as (store, where):
            assert where.next_seq == 1
            assert where.next_ordinal >= 16, "smaller numbers are parts of journal rows"
            assert (where.settings, where.declared) == ({}, {})
            assert list(await store.running(0, 10)) == []
            assert list(await store.timers(None, 10)) == []
            assert list(await store.expired(NOW, 10)) == []
            assert list((await store.find(Filter())).found) == []
            assert list(await store.journal(1)) == []

    play(story)


EVERY_FIELD = [
    pytest.param(an_invocation(), id="nothing optional"),
    pytest.param(
        an_invocation(
            key="alice",
            flavor=Flavor.EXCLUSIVE,
            input=b"\x00\xff raw",
            headers={"x-a": "1", "ключ": "значение 🚀", "quote": '"\\'},
            idempotency_key="order 1",
            caller=Caller(7, "inv_1" + "7" * 33, 3, "Shop/bob/checkout", True),
        ),
        id="asked by a call",
    ),
    pytest.param(
        an_invocation(caller=Caller(7, "inv_1" + "7" * 33, 3, "Shop/checkout", False)), id="asked by a send"
    ),
    pytest.param(an_invocation(status=Status.SCHEDULED, due_at=NOW + 1), id="scheduled"),
    pytest.param(
        an_invocation(status=Status.PENDING, key="k", flavor=Flavor.EXCLUSIVE, queued=2**53), id="waits for a key"
    ),
    pytest.param(
        an_invocation(
            status=Status.BACKING_OFF,
            attempt=3,
            failures=2,
            step_failures={4: 1, 9: 70},
            problem=Problem("it broke\n\x00", "ValueError", "Traceback …", 4, "charge", NOW, 418),
            due_at=NOW + 500,
        ),
        id="backing off",
    ),
    pytest.param(an_invocation(status=Status.PAUSED, attempt=70, failures=70, problem=Problem("no")), id="paused"),
    pytest.param(an_invocation(status=Status.SUSPENDED, attempt=1, waiting=Awaited(12)), id="waits for one entry"),
    pytest.param(
        an_invocation(
            status=Status.SUSPENDED,
            waiting=Awaited(Group("any", (1, Group("all", (2, 3), fail_fast=True), Group("all", (4,))))),
        ),
        id="waits for an expression",
    ),
    pytest.param(an_invocation(status=Status.READY, place=2**40, crashes=3), id="waits for a slot after crashes"),
    pytest.param(an_invocation(cancelling=2**40, listened=True), id="cancelling, with listeners"),
    pytest.param(an_invocation(attempt=2, cancelling=1, pausing=True), id="to be paused"),
    pytest.param(an_invocation(status=Status.PAUSED, attempt=2, pausing=True), id="paused by an operator"),
    pytest.param(
        an_invocation(restarted_from="inv_1" + "8" * 33, seed="inv_1" + "9" * 33), id="done again over a journal"
    ),
    pytest.param(
        an_invocation(restarted_from="inv_1" + "8" * 33, origin="inv_1" + "7" * 33), id="done again from its start"
    ),
    pytest.param(a_completed(1, journal_retention_ms=5), id="succeeded, journal kept for less long"),
    pytest.param(a_completed(1, journal_retention_ms=0, journal_kept=False), id="succeeded, journal never kept"),
    pytest.param(a_completed(1, journal_kept=False), id="succeeded, journal gone"),
    pytest.param(a_completed(1, Outcome(True, b"\x00\x01\xff")), id="succeeded"),
    pytest.param(a_completed(1, EMPTY), id="returned nothing"),
    pytest.param(a_completed(1, KILLED), id="killed"),
    pytest.param(
        an_invocation(flavor=Flavor.WORKFLOW_SHARED, service="Sign Up", handler="verify", key=""), id="empty key"
    ),
]


#: What is read off the journal, or true of this process only.
NOT_STORED = {
    "last_entry", "open", "early", "kept", "notified", "cancelled", "cancels", "started", "damaged", "unnoted",
    "sealed",
}  # fmt: skip


def test_every_field_that_is_stored_is_tried() -> None:
    """Set to something that is not its default: a column that is forgotten is noticed here."""
    plain = an_invocation()
    tried: set[str] = set()
    for param in EVERY_FIELD:
        (one,) = param.values
        assert isinstance(one, Invocation)
        for before, after in ((plain, one), (plain.submission, one.submission)):
            tried |= {name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)}
    fields = {*Invocation.__struct_fields__, *Submission.__struct_fields__}
    of_the_request = {"seq", "id", "created_at", "modified_at", "completion_retention_ms"}
    assert fields - tried - NOT_STORED == of_the_request


@pytest.mark.parametrize("written", EVERY_FIELD)
def test_every_field_of_an_invocation_comes_back(stores: Stores, written: Invocation) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: written}))
            assert await loaded(store, 1) == written
        async with using(stores) as store:
            assert await loaded(store, 1) == written
            assert [view_of(one) for one in (await store.find(Filter())).found] == [view_of(written)]

    play(story)


@pytest.mark.parametrize("after", [param.values[0] for param in EVERY_FIELD], ids=[str(p.id) for p in EVERY_FIELD])
def test_a_change_rewrites_where_an_invocation_stands(stores: Stores, after: Any) -> None:
    """Whatever it was before: each moving field is set to the new value, also where that is nothing."""

    async def story() -> None:
        ends: dict[int, Invocation] = {}
        async with using(stores) as store:
            for seq, param in enumerate(EVERY_FIELD, 1):
                (before,) = param.values
                assert isinstance(before, Invocation)
                claim = after.submission.idempotency_key
                asked = msgspec.structs.replace(
                    after.submission, id=f"inv_1{seq:033}", idempotency_key=claim and f"{claim} {seq}"
                )
                ends[seq] = msgspec.structs.replace(after, seq=seq, submission=asked)
                await store.commit(Writes(created={seq: msgspec.structs.replace(before, seq=seq, submission=asked)}))
                await store.commit(Writes(changed={seq: ends[seq]}))
        async with using(stores) as store:
            for seq, end in ends.items():
                assert await loaded(store, seq) == end

    play(story)


def test_an_invocation_that_is_created_again_with_its_id_is_refused(stores: Stores) -> None:
    """I5: an id names one invocation; two of them would have two outcomes."""

    async def story() -> None:
        one = an_invocation(1)
        async with using(stores) as store:
            await store.commit(Writes(created={1: one}))
            with pytest.raises(CommitRefused):
                await store.commit(Writes(created={2: msgspec.structs.replace(one, seq=2)}))
        async with using(stores) as store:
            assert [one.seq for one in (await store.find(Filter())).found] == [1]

    play(story)


def test_an_id_is_free_again_in_the_turn_that_forgets_it(stores: Stores) -> None:
    async def story() -> None:
        old, new = a_completed(1), an_invocation(2)
        new.submission = msgspec.structs.replace(new.submission, id=old.id, input=b"again")
        async with using(stores) as store:
            await store.commit(Writes(created={1: old}))
            await store.commit(Writes(purged=[1]))
            await store.commit(Writes(created={2: new}))
            assert (await store.load(Need(ids={old.id}))).invocations == [new]

    play(story)


def test_an_expired_result_is_forgotten_and_its_id_taken_in_one_turn(stores: Stores) -> None:
    """What happens when an idempotency key is used again after its retention: purge and create, one commit."""

    async def story() -> None:
        old, new = a_completed(1), an_invocation(2)
        new.submission = msgspec.structs.replace(new.submission, id=old.id, input=b"again")
        async with using(stores) as store:
            await store.commit(Writes(created={1: old}))
            await store.commit(Writes(purged=[1], created={2: new}))
        async with using(stores) as store:
            assert (await store.load(Need(ids={old.id}))).invocations == [new]
            assert [one.seq for one in (await store.find(Filter())).found] == [2]

    play(story)


def test_the_numbering_goes_on_after_the_last_invocation(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={seq: an_invocation(seq) for seq in (1, 2, 41)}))
        async with opened(stores()) as (_, where):
            assert where.next_seq == 42

    play(story)


def test_invocations_are_found_by_number_and_by_id_and_missing_ones_are_left_out(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={seq: an_invocation(seq) for seq in (1, 2, 3)}))
            unknown = an_invocation(9).id
            found = await store.load(Need(seqs={1, 8}, ids={an_invocation(3).id, unknown}))
            assert {one.seq for one in found.invocations} == {1, 3}
            nothing = await store.load(Need(seqs={8, -1, 2**60}, ids={unknown, "", "inv"}))
            assert nothing.invocations == []
            empty = await store.load(Need())
            assert (empty.invocations, empty.keys, empty.topics, empty.signals) == ([], [], {}, {})

    play(story)


def test_more_are_loaded_at_once_than_one_query_can_name(stores: Stores) -> None:
    async def story() -> None:
        many = {seq: an_invocation(seq) for seq in range(1, 1102)}
        async with using(stores) as store:
            await store.commit(Writes(created=dict(many)))
            by_number = await store.load(Need(seqs=set(many)))
            assert {one.seq for one in by_number.invocations} == set(many)
            by_id = await store.load(Need(ids={one.id for one in many.values()}))
            assert {one.seq for one in by_id.invocations} == set(many)

    play(story)


def test_every_call_gets_an_invocation_of_its_own(stores: Stores) -> None:
    """What the core does to one in memory reaches the store only through a commit."""

    async def story() -> None:
        async with using(stores) as store:
            written = an_invocation(1)
            await store.commit(Writes(created={1: written}))
            written.attempt = 99
            first = await loaded(store, 1)
            assert first.attempt == 0
            first.attempt, first.open[7] = 98, Open(Kind.RUN)
            again = await loaded(store, 1)
            assert (again.attempt, again.open) == (0, {})

    play(story)


@pytest.mark.parametrize("count", COUNTS)
def test_a_turn_of_many_rows_is_written_whole(stores: Stores, count: int) -> None:
    """Every table, with more rows than go into one statement."""

    async def story() -> None:
        seqs = range(1, count + 1)
        invocations = {seq: an_invocation(seq) for seq in seqs}
        rows = [a_row(1, seq, outcome=Outcome(True, str(seq).encode()), ordinal=100 + seq) for seq in seqs]
        signals = [(1, Signal(1000 + seq, "s", Outcome(True, str(seq).encode()))) for seq in seqs]
        async with using(stores) as store:
            await store.commit(
                Writes(
                    created=dict(invocations),
                    journal=list(rows),
                    state={("S", "k", f"n{seq}"): str(seq).encode() for seq in seqs},
                    promises={("S", "k", f"p{seq}"): Outcome(seq % 2 == 0, str(seq).encode()) for seq in seqs},
                    timers_added={(NOW + seq, seq, 0) for seq in seqs},
                    listeners_added={("t", seq, 1) for seq in seqs},
                    signals_added=list(signals),
                    settings={f"S{seq}": f'{{"public":{seq}}}' for seq in seqs},
                    declared={f"S{seq}": (seq, f"digest {seq}") for seq in seqs},
                )
            )
            for one in invocations.values():
                one.status, one.failures = Status.PAUSED, one.seq
            await store.commit(Writes(changed=dict(invocations)))
        async with opened(stores()) as (store, where):
            assert where.settings == {f"S{seq}": f'{{"public":{seq}}}' for seq in seqs}
            assert where.declared == {f"S{seq}": (seq, f"digest {seq}") for seq in seqs}
            assert list(await store.journal(1)) == rows
            found = await store.load(Need(seqs=set(seqs), keys={("S", "k")}, topics={"t"}))
            assert {one.seq: one.failures for one in found.invocations} == {seq: seq for seq in seqs}
            assert found.keys[0].state == {f"n{seq}": str(seq).encode() for seq in seqs}
            assert found.keys[0].promises == {f"p{seq}": Outcome(seq % 2 == 0, str(seq).encode()) for seq in seqs}
            assert sorted(found.topics["t"]) == [(seq, 1) for seq in seqs]
            assert found.signals == {1: [signal for _, signal in signals]}
            assert list(await store.timers(None, 10_000)) == [(NOW + seq, seq, 0) for seq in seqs]

            await store.commit(
                Writes(
                    purged=[seq for seq in seqs if seq != 1],
                    state={("S", "k", f"n{seq}"): None for seq in seqs},
                    timers_removed={(NOW + seq, seq, 0) for seq in seqs},
                    listeners_removed={("t", seq, 1) for seq in seqs},
                    signals_removed=[(1, 1000 + seq) for seq in seqs],
                )
            )
            found = await store.load(Need(seqs=set(seqs), keys={("S", "k")}, topics={"t"}))
            assert [one.seq for one in found.invocations] == [1]
            assert (found.keys[0].state, list(found.topics["t"]), found.signals) == ({}, [], {})
            assert list(await store.timers(None, 10_000)) == []
            await store.commit(Writes(journals_purged=list(seqs)))
            assert list(await store.journal(1)) == []

    play(story)


# ---- journals ----


def test_a_journal_comes_back_row_by_row_in_order(stores: Stores) -> None:
    rows = [
        a_row(1, 0, 17, Kind.CANCEL, name=None, ordinal=17, outcome=CANCELLED),
        a_row(1, 1, outcome=Outcome(True, b"\x00\xff"), ordinal=16),
        a_row(1, 2, kind=Kind.SLEEP, name="", detail=str(NOW), seen=1),
        a_row(1, 2, COMPLETION, Kind.SLEEP, name=None, ordinal=18, outcome=EMPTY),
        a_row(1, 3, kind=Kind.CALL, name="Shop/k/ship", detail="inv_1" + "3" * 33, value=b"12345678"),
        *(a_row(1, entry, kind=Kind.SET, name="имя", outcome=Outcome(True, b"")) for entry in range(4, 11)),
    ]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: an_invocation()}, journal=list(reversed(rows))))
            await store.commit(Writes(journal=[a_row(2, 1), a_row(11, 1)]))
        async with using(stores) as store:
            found = list(await store.journal(1))
            assert found == rows
            assert all(isinstance(row, Row) for row in found)
            assert [row.invocation for row in await store.journal(2)] == [2]

    play(story)


def test_what_is_open_is_read_off_the_journal(stores: Stores) -> None:
    """A loaded invocation knows its last entry and its open entries exactly as its whole journal tells them."""
    rows = [
        a_row(1, 1, outcome=VALUE, ordinal=16),
        a_row(1, 2, kind=Kind.SLEEP, name="", detail=str(NOW + 5)),
        a_row(1, 3, kind=Kind.CALL, name="Shop/ship", detail="inv_1" + "3" * 33, value=b"12345678"),
        a_row(1, 4, kind=Kind.SEND, name="Shop/ship", detail="inv_1" + "4" * 33, value=b"12345678"),
        a_row(1, 5, kind=Kind.AWAKEABLE, name=""),
        a_row(1, 6, kind=Kind.SIGNAL, name="go", detail="go"),
        a_row(1, 7, kind=Kind.PROMISE, name="paid", detail="promise/Shop/1/k/paid"),
        a_row(1, 8, kind=Kind.ATTACH, name="", detail="inv_1" + "8" * 33),
        a_row(1, 9, kind=Kind.RUN, name="slow"),
        a_row(1, 10, kind=Kind.AWAKEABLE, name=""),
        a_row(1, 10, COMPLETION, Kind.AWAKEABLE, name=None, ordinal=18, outcome=VALUE),
        a_row(1, 11, kind=Kind.SET, name="n", outcome=Outcome(True, b"1")),
        a_row(1, 0, 17, Kind.CANCEL, name=None, ordinal=17, outcome=CANCELLED),
    ]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: an_invocation()}, journal=list(rows)))
        async with using(stores) as store:
            found = await loaded(store, 1)
            assert found.last_entry == 11
            assert found.open == {
                2: Open(Kind.SLEEP, NOW + 5),
                3: Open(Kind.CALL, "inv_1" + "3" * 33),
                5: Open(Kind.AWAKEABLE, None),
                6: Open(Kind.SIGNAL, "go"),
                7: Open(Kind.PROMISE, "promise/Shop/1/k/paid"),
                8: Open(Kind.ATTACH, f"output/inv_1{'8' * 33}"),
                9: Open(Kind.RUN, None),
            }
            assert found.early == {}
            told = an_invocation()
            attach_journal(told, await store.journal(1))
            assert (told.last_entry, told.open, told.early) == (found.last_entry, found.open, found.early)

    play(story)


def test_a_completion_that_came_before_its_entry_is_kept(stores: Stores) -> None:
    """Its `ordinal` is None until the handler asks for the entry; then the row is written again with one."""
    early = a_row(1, 3, COMPLETION, Kind.AWAKEABLE, name=None, outcome=Outcome(False, b'{"message":"no"}'))

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: an_invocation()}, journal=[a_row(1, 1, outcome=VALUE), early]))
        async with using(stores) as store:
            found = await loaded(store, 1)
            assert found.early == {3: Outcome(False, b'{"message":"no"}')}
            assert (found.last_entry, found.open) == (1, {})
            await store.commit(
                Writes(
                    journal=[
                        a_row(1, 2, kind=Kind.AWAKEABLE),
                        a_row(1, 3, kind=Kind.AWAKEABLE),
                        early._replace(ordinal=20),
                    ]
                )
            )
        async with using(stores) as store:
            found = await loaded(store, 1)
            assert found.early == {}
            assert (found.last_entry, found.open) == (3, {2: Open(Kind.AWAKEABLE)})
            assert [row.ordinal for row in await store.journal(1) if row.entry == 3] == [None, 20]

    play(story)


def test_what_a_cancel_has_to_know_is_read_off_the_journal(stores: Stores) -> None:
    """How many there were, which steps may be interrupted, and how calls ended that are told after the next one."""
    rows = [
        a_row(1, 0, 17, Kind.CANCEL, name=None, ordinal=17, outcome=CANCELLED),
        a_row(1, 0, 23, Kind.CANCEL, name=None, ordinal=23, outcome=CANCELLED),
        a_row(1, 1, kind=Kind.RUN, name="slow"),
        a_row(1, 2, kind=Kind.RUN, name="fast", detail=INTERRUPTIBLE),
        a_row(1, 3, kind=Kind.CALL, name="Shop/ship", detail="inv_1" + "3" * 33, value=b"12345678"),
        a_row(1, 3, COMPLETION, Kind.CALL, name=None, outcome=KILLED),
        a_row(1, 4, kind=Kind.CALL, name="Shop/ship", detail="output/inv_1" + "4" * 33, value=b"12345678"),
        a_row(1, 6, COMPLETION, Kind.AWAKEABLE, name=None, outcome=VALUE),
    ]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: an_invocation(cancelling=3)}, journal=list(rows)))
        async with using(stores) as store:
            found = await loaded(store, 1)
            assert (found.cancelling, found.cancels) == (3, 2)
            assert {entry: waits.is_step for entry, waits in found.open.items()} == {
                1: True, 2: False, 3: False, 4: False,
            }  # fmt: skip
            assert [found.open[entry].kind for entry in (3, 4)] == [Kind.CALL, Kind.ATTACH], "4 joined another's call"
            assert (found.kept, found.early) == ({3: KILLED}, {6: VALUE})
            told = an_invocation()
            attach_journal(told, await store.journal(1))
            assert (told.open, told.kept, told.early) == (found.open, found.kept, found.early)

    play(story)


def test_whole_journals_are_loaded_with_the_rest(stores: Stores) -> None:
    rows = [
        a_row(1, 0, 17, Kind.CANCEL, name=None, ordinal=17, outcome=CANCELLED),
        a_row(1, 1, outcome=Outcome(True, b"\x00\xff"), ordinal=16),
        a_row(1, 2, outcome=VALUE, ordinal=18),
        *(a_row(1, entry, kind=Kind.SLEEP, name="", detail="5") for entry in range(3, 11)),
    ]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: a_completed(1)}, journal=[*reversed(rows), a_row(2, 1)]))
        async with using(stores) as store:
            found = await store.load(Need(seqs={1}, journals={1, 99}))
            assert found.journals == {1: rows, 99: []}
            assert all(isinstance(row, Row) for row in found.journals[1])
            assert [one.seq for one in found.invocations] == [1]
            assert (await store.load(Need(seqs={1}))).journals == {}
            assert Need(journals={1})

    play(story)


@pytest.mark.parametrize("steps", [1, 2, 200])
def test_the_last_entry_is_known_however_long_the_journal(stores: Stores, steps: int) -> None:
    rows = [a_row(1, entry, outcome=VALUE, ordinal=15 + entry) for entry in range(1, steps + 1)]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: an_invocation()}, journal=list(rows)))
            found = await loaded(store, 1)
            assert (found.last_entry, found.open, found.early) == (steps, {}, {})

    play(story)


def test_of_a_completed_invocation_no_journal_is_attached(stores: Stores) -> None:
    """Nothing can happen to it any more; its open entries were abandoned."""

    async def story() -> None:
        async with using(stores) as store:
            row = a_row(1, 1, kind=Kind.AWAKEABLE)
            await store.commit(Writes(created={1: a_completed(1)}, journal=[row]))
            found = await loaded(store, 1)
            assert (found.open, found.early) == ({}, {})
            assert list(await store.journal(1)) == [row]

    play(story)


def test_a_big_value_comes_back_byte_by_byte(stores: Stores) -> None:
    blob = os.urandom(1 << 20) * 16

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(
                Writes(
                    created={1: a_completed(1, Outcome(True, blob), input=blob)},
                    journal=[a_row(1, 1, outcome=Outcome(True, blob), ordinal=16)],
                    state={("S", "k", "n"): blob},
                )
            )
        async with using(stores) as store:
            found = await loaded(store, 1)
            assert found.submission.input == blob
            assert found.outcome == Outcome(True, blob)
            assert next(iter(await store.journal(1))).value == blob
            assert (await store.load(Need(keys={("S", "k")}))).keys[0].state == {"n": blob}

    play(story)


# ---- keys ----


def test_state_is_written_overwritten_and_deleted(stores: Stores) -> None:
    async def state(store: Store, key: str = "k") -> dict[str, bytes]:
        (found,) = (await store.load(Need(keys={("S", key)}))).keys
        return found.state

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(state={("S", "k", "a"): b"1", ("S", "k", "b"): b"", ("S", "j", "a"): b"9"}))
            assert await state(store) == {"a": b"1", "b": b""}
            await store.commit(Writes(state={("S", "k", "a"): b"2", ("S", "k", "b"): None, ("S", "k", "c"): b"3"}))
            assert await state(store) == {"a": b"2", "c": b"3"}
            await store.commit(Writes(state={("S", "k", "never set"): None}))
            assert await state(store) == {"a": b"2", "c": b"3"}
        async with using(stores) as store:
            assert await state(store) == {"a": b"2", "c": b"3"}
            assert await state(store, "j") == {"a": b"9"}
            assert await state(store, "unknown") == {}

    play(story)


def test_clear_all_and_set_in_one_turn_leaves_what_was_set(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(
                Writes(
                    state={("S", "k", "old"): b"1", ("S", "k", "kept"): b"1", ("S", "j", "old"): b"1"},
                    promises={("S", "k", "old"): VALUE, ("S", "j", "old"): VALUE},
                )
            )
            await store.commit(
                Writes(
                    state_cleared={("S", "k")},
                    state={("S", "k", "kept"): b"2", ("S", "k", "new"): b"3"},
                    promises_cleared={("S", "k")},
                    promises={("S", "k", "new"): EMPTY},
                )
            )
        async with using(stores) as store:
            found = {one.key: one for one in (await store.load(Need(keys={("S", "k"), ("S", "j")}))).keys}
            assert found["k"].state == {"kept": b"2", "new": b"3"}
            assert found["k"].promises == {"new": EMPTY}
            assert found["j"].state == {"old": b"1"}
            assert found["j"].promises == {"old": VALUE}

    play(story)


def test_promises_keep_values_and_failures(stores: Stores) -> None:
    async def story() -> None:
        kept = {"yes": VALUE, "no": CANCELLED, "nothing": EMPTY}
        async with using(stores) as store:
            await store.commit(Writes(promises={("W", "k", name): one for name, one in kept.items()}))
        async with using(stores) as store:
            (found,) = (await store.load(Need(keys={("W", "k")}))).keys
            assert found.promises == kept

    play(story)


def test_the_queue_of_a_key_is_in_the_order_of_acceptance(stores: Stores) -> None:
    """By `queued`, not by number: a scheduled one queues up when it is due."""

    def exclusive(seq: int, queued: int | None, status: Status = Status.PENDING, **fields: Any) -> Invocation:
        return an_invocation(seq, status, flavor=Flavor.EXCLUSIVE, queued=queued, **{"key": "k"} | fields)

    async def story() -> None:
        rows = [
            exclusive(1, 30),
            exclusive(2, 20, Status.RUNNING),
            exclusive(3, None, Status.SCHEDULED),
            exclusive(4, 40),
            exclusive(5, 25, key="j"),
            exclusive(6, 26, service="Other"),
        ]
        async with using(stores) as store:
            await store.commit(Writes(created={one.seq: one for one in rows}))
        async with using(stores) as store:
            keys = {("Shop", "k"), ("Shop", "j"), ("Other", "k"), ("Shop", "free")}
            found = {(one.service, one.key): list(one.queue) for one in (await store.load(Need(keys=keys))).keys}
            assert found == {("Shop", "k"): [2, 1, 4], ("Shop", "j"): [5], ("Other", "k"): [6], ("Shop", "free"): []}
            rows[1].queued, rows[1].status = None, Status.COMPLETED
            await store.commit(Writes(changed={2: rows[1]}))
            (shop,) = (await store.load(Need(keys={("Shop", "k")}))).keys
            assert list(shop.queue) == [1, 4]

    play(story)


KEYS = [
    pytest.param("", id="empty"),
    pytest.param("a\x00b", id="NUL inside"),
    pytest.param("\x00", id="NUL alone"),
    pytest.param(" lead and trail ", id="spaces"),
    pytest.param("../%2F+'\";--", id="punctuation"),
    pytest.param("\u202eabc", id="RTL override"),
    pytest.param("🚀\U0010ffff", id="four bytes"),
    pytest.param("\ufeffbom\uffff", id="BOM and non-character"),
    pytest.param("k" * 65_536, id="64 KiB"),
    pytest.param("1", id="looks like a number"),
    pytest.param("1.0", id="looks like a float"),
    pytest.param("NULL", id="looks like nothing"),
]


@pytest.mark.parametrize("key", KEYS)
def test_every_legal_key_is_itself(stores: Stores, key: str) -> None:
    """R-19: through submission, state, promises, listeners and listing."""

    async def story() -> None:
        waiting = an_invocation(
            1, Status.PENDING, key=key, flavor=Flavor.EXCLUSIVE, queued=5, idempotency_key=key, headers={key: key}
        )
        async with using(stores) as store:
            await store.commit(
                Writes(
                    created={1: waiting, 2: an_invocation(2, key=key + "x")},
                    state={("Shop", key, key): b"v"},
                    promises={("Shop", key, key): VALUE},
                    listeners_added={(key, 1, 1)},
                    signals_added=[(1, Signal(50, key, VALUE))],
                )
            )
        async with using(stores) as store:
            found = await store.load(Need(seqs={1}, keys={("Shop", key)}, topics={key}))
            assert found.invocations == [waiting]
            (target,) = found.keys
            assert (target.key, target.state, target.promises) == (key, {key: b"v"}, {key: VALUE})
            assert list(target.queue) == [1]
            assert list(found.topics[key]) == [(1, 1)]
            assert found.signals[1] == [Signal(50, key, VALUE)]
            assert [one.submission.key for one in (await store.find(Filter(key=key))).found] == [key]

    play(story)


def test_composed_and_decomposed_letters_are_different_keys(stores: Stores) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert composed != decomposed

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(state={("S", composed, "n"): b"1", ("S", decomposed, "n"): b"2"}))
            keys = (await store.load(Need(keys={("S", composed), ("S", decomposed)}))).keys
            assert {one.key: one.state["n"] for one in keys} == {composed: b"1", decomposed: b"2"}

    play(story)


def test_upper_and_lower_case_are_different_keys(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(state={("S", "k", "n"): b"1", ("S", "K", "n"): b"2", ("S", "k", "N"): b"3"}))
            keys = (await store.load(Need(keys={("S", "k"), ("S", "K"), ("s", "k")}))).keys
            assert {(one.service, one.key): one.state for one in keys} == {
                ("S", "k"): {"n": b"1", "N": b"3"},
                ("S", "K"): {"n": b"2"},
                ("s", "k"): {},
            }

    play(story)


# ---- timers, listeners, signals, settings ----


def test_timers_come_by_due_time_then_by_number_a_window_at_a_time(stores: Stores) -> None:
    timers: list[Timer] = sorted(
        (NOW + due, seq, entry) for due in (5, 2, 9, 0) for seq in (3, 1) for entry in (0, 2)
    )

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(timers_added=set(timers)))
        async with using(stores) as store:
            assert [tuple(timer) for timer in await store.timers(None, 100)] == timers
            for window in (1, 3, 16):
                seen: list[Timer] = []
                while page := list(await store.timers(seen[-1] if seen else None, window)):
                    assert len(page) <= window
                    seen += [(due, seq, entry) for due, seq, entry in page]
                assert seen == timers
            assert list(await store.timers(timers[-1], 5)) == []
            assert [tuple(timer) for timer in await store.timers((NOW + 5, 0, 0), 1)] == [(NOW + 5, 1, 0)]

    play(story)


def test_a_timer_moves_in_one_turn(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(timers_added={(1, 1, 0), (2, 2, 0)}))
            await store.commit(Writes(timers_added={(3, 1, 0), (2, 2, 0)}, timers_removed={(1, 1, 0), (9, 9, 9)}))
        async with using(stores) as store:
            assert [tuple(timer) for timer in await store.timers(None, 9)] == [(2, 2, 0), (3, 1, 0)]

    play(story)


def test_listeners_come_and_go_by_topic(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(listeners_added={("a", 2, 1), ("a", 1, 7), ("a", 1, 3), ("b", 1, 3)}))
            await store.commit(Writes(listeners_removed={("a", 1, 7), ("gone", 1, 1)}, listeners_added={("c", 5, 5)}))
        async with using(stores) as store:
            found = await store.load(Need(topics={"a", "b", "c", "nobody"}))
            topics = {topic: sorted((seq, entry) for seq, entry in who) for topic, who in found.topics.items()}
            assert topics == {"a": [(1, 3), (2, 1)], "b": [(1, 3)], "c": [(5, 5)], "nobody": []}

    play(story)


def test_who_waits_for_any_promise_of_a_key_is_given_and_nobody_else(stores: Stores) -> None:
    """Keys and names with anything in them: a slash, a percent sign, letters beyond the first plane."""
    names = ["p", "", "/", "0", "a/b", "\U0010ffff"]
    mine = [(promise_topic("W", "k/1", name), seq, 1) for seq, name in enumerate(names, 1)]
    others = [("W", "k", "1/p"), ("W", "k/10", "p"), ("W", "k/", "1"), ("W2", "k/1", "p"), ("", "k/1", "p")]
    theirs = [(promise_topic(*other), 50 + seq, 1) for seq, other in enumerate(others)]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(listeners_added={*mine, *theirs, ("output/x", 99, 1)}))
        async with using(stores) as store:
            found = await store.load(Need(waiting={("W", "k/1"), ("W", "nobody")}))
            assert sorted(map(tuple, found.waiting["W", "k/1"])) == sorted(mine)
            assert list(found.waiting["W", "nobody"]) == []

    play(story)


def test_those_that_somebody_is_attached_to_are_given_once_each_a_batch_at_a_time(stores: Stores) -> None:
    ids = sorted("inv_1" + digit * 33 for digit in "0AZaz")

    async def story() -> None:
        async with using(stores) as store:
            assert list(await store.attached("", 9)) == []
            listeners = {(f"output/{id}", seq, 1) for id in ids for seq in (1, 2)}
            others = {("promise/W/1/k/p", 1, 3), ("output", 1, 4), ("outputs/inv_1", 1, 5), ("zzz", 1, 6)}
            await store.commit(Writes(listeners_added=listeners | others))
            await store.commit(Writes(listeners_removed={(f"output/{ids[1]}", 1, 1)}))
        async with using(stores) as store:
            assert list(await store.attached("", 9)) == ids
            assert list(await store.attached("", 2)) == ids[:2]
            assert list(await store.attached(ids[1], 2)) == ids[2:4]
            assert list(await store.attached(ids[4], 2)) == []
            await store.commit(
                Writes(listeners_removed={(f"output/{id}", seq, 1) for id in ids[:2] for seq in (1, 2)})
            )
            assert list(await store.attached("", 9)) == ids[2:]

    play(story)


def test_an_answer_is_kept_as_long_as_its_owner(stores: Stores) -> None:
    of_one, of_two, gone = Place("1", "signal/s", "k"), Place("2", "signal/s", "k"), Place("", "purge/x", "k")
    of_promise, other = Place(promise_topic("W", "a", ""), "p", "k"), Place(promise_topic("W", "a/b", ""), "p", "k")
    given = Answered("done", "inv", b"print")

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(
                Writes(
                    created={1: an_invocation(1), 2: an_invocation(2)},
                    answered=dict.fromkeys((of_one, of_two, of_promise, other), given),
                )
            )
            await store.commit(Writes(answered={gone: Answered("done", until=500)}, answered_until=100))
        async with using(stores) as store:
            places = {of_one, of_two, of_promise, other, gone, Place("1", "signal/s", "l")}

            async def known() -> dict[Place, Answered]:
                return (await store.load(Need(answered=places))).answered

            kept = {of_one: given, of_two: given, of_promise: given, other: given, gone: Answered("done", until=500)}
            assert await known() == kept
            await store.commit(Writes(purged=[1], promises_cleared={("W", "a")}, answered_until=499))
            assert await known() == {place: kept[place] for place in (of_two, other, gone)}
            anew = Place("", "purge/y", "k")
            await store.commit(Writes(answered={anew: Answered("done", until=900)}, answered_until=500))
            assert await known() == {of_two: given, other: given}
            assert (await store.load(Need(answered={anew}))).answered == {anew: Answered("done", until=900)}

    play(story)


def test_signals_wait_in_the_order_in_which_they_came(stores: Stores) -> None:
    signals = [Signal(40, "b", VALUE), Signal(20, "a", CANCELLED), Signal(30, "a", EMPTY)]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(
                Writes(
                    created={1: an_invocation(1), 2: an_invocation(2)}, signals_added=[(1, one) for one in signals]
                )
            )
        async with using(stores) as store:
            found = await store.load(Need(seqs={1, 2}))
            assert found.signals == {1: sorted(signals, key=lambda signal: signal.ordinal)}
            await store.commit(Writes(signals_removed=[(1, 20), (1, 40), (2, 20)]))
            assert (await store.load(Need(seqs={1}))).signals == {1: [signals[2]]}

    play(story)


def test_settings_of_a_service_are_replaced(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(settings={"A": '{"public":false}', "B": "{}"}))
            await store.commit(Writes(settings={"A": '{"public":true}'}))
        async with opened(stores()) as (_, where):
            assert where.settings == {"A": '{"public":true}', "B": "{}"}

    play(story)


def test_what_a_service_was_declared_as_is_replaced(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(declared={"A": (1, "first"), "B": (1, "")}))
            await store.commit(Writes(declared={"A": (2, "second")}))
        async with opened(stores()) as (_, where):
            assert where.declared == {"A": (2, "second"), "B": (1, "")}

    play(story)


def in_line(count: int) -> InLine:
    shared = Submission(
        "", "S", "h", None, Flavor.SERVICE, b"", {}, None, Caller(0, "sub_1", 0, "kafka://c/t", False), None, 5, 6
    )
    records = Alike(
        shared,
        range(count),
        [invocation_id(number, number) for number in range(count)],
        [b"%d" % number if number % 7 else b"" for number in range(count)],
        [f'{{"kafka.offset":"{number}","ü":"\\u0001"}}' for number in range(count)],
        (1, 2),
    )
    return InLine(records, count // 9, 1000, 2**33, 1_893_456_000_000)


def test_many_that_are_alike_are_stored_as_each_by_itself_is(stores: Stores) -> None:
    """What waits in line as rows: every column, checksums included, and the invocations that are read from them."""
    some = in_line(300)

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(in_line=[some]))
            found = await store.load(Need(seqs=set(range(1000, 1000 + len(some)))))
            assert sorted(found.invocations, key=lambda one: one.seq) == [
                msgspec.structs.replace(one, started=False) for one in some.invocations()
            ]
            assert not any(one.damaged or one.problem for one in found.invocations)
            waiting = await store.load(Need(ready=(2**33 + 9, 3)))
            assert waiting.ready == [(2**33 + number, 1000 + number) for number in (10, 11, 12)]

    play(story)


def test_subscriptions_positions_and_clusters_are_kept_replaced_and_deleted(stores: Stores) -> None:
    def subscription(id: str, **fields: Any) -> Subscription:
        return Subscription(
            id, "kafka://c/ü", "service://S/h", {"a": "b"}, "c", "ü", "g", "S", "h", "service", 5, **fields
        )

    one, other = "sub_1" + "0" * 22, "sub_1" + "1" * 22
    places = [GroupPartition("c", "g", "ü", number) for number in range(300)]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(
                Writes(
                    subscriptions={one: subscription(one), other: subscription(other)},
                    positions={place: Position(place.partition + 2**40) for place in places},
                    clusters={"c": Cluster("c", {"x": "y"}, 1), "d": Cluster("d", {}, 2)},
                )
            )
            await store.commit(
                Writes(
                    subscriptions={one: None, other: subscription(other, paused=True, start="latest")},
                    positions={places[0]: None, places[1]: Position(7, 8, 9, 10, 11, 12)},
                    clusters={"c": None, "d": Cluster("d", {"x": "z"}, 3)},
                )
            )
        async with opened(stores()) as (_, where):
            found = where.sources
            assert found.subscriptions == {other: subscription(other, paused=True, start="latest")}
            assert found.clusters == {"d": Cluster("d", {"x": "z"}, 3)}
            assert len(found.positions) == 299 and places[0] not in found.positions
            assert found.positions[places[1]] == Position(7, 8, 9, 10, 11, 12)
            assert found.positions[places[2]] == Position(2 + 2**40)
            assert found.lost_positions == ""

    play(story)


def test_reserved_ordinals_are_skipped_after_a_start(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(ordinals_reserved=1_000_016))
        async with opened(stores()) as (store, where):
            assert where.next_ordinal == 1_000_016
            await store.commit(Writes(settings={"A": "{}"}))
        async with opened(stores()) as (_, where):
            assert where.next_ordinal == 1_000_016

    play(story)


# ---- purge and expiry ----


def test_forgetting_takes_every_trace_and_nothing_else(stores: Stores) -> None:
    async def story() -> None:
        kept = an_invocation(2, listened=True)
        async with using(stores) as store:
            await store.commit(
                Writes(
                    created={1: a_completed(1), 2: kept, 3: a_completed(3)},
                    journal=[a_row(1, 1, outcome=VALUE), a_row(2, 1, outcome=VALUE), a_row(3, 1, outcome=VALUE)],
                    signals_added=[(1, Signal(20, "s", VALUE)), (2, Signal(21, "s", VALUE))],
                )
            )
            await store.commit(Writes(purged=[1, 3, 99]))
        async with using(stores) as store:
            found = await store.load(Need(seqs={1, 2, 3}, ids={a_completed(1).id}))
            assert [one.seq for one in found.invocations] == [2]
            assert found.signals == {2: [Signal(21, "s", VALUE)]}
            assert (list(await store.journal(1)), len(await store.journal(2))) == ([], 1)
            assert [one.seq for one in (await store.find(Filter())).found] == [2]

    play(story)


def test_an_invocation_can_be_accepted_and_forgotten_in_one_turn(stores: Stores) -> None:
    """With a retention of zero: it is created, journaled and purged before anything was written."""

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: a_completed(1)}, journal=[a_row(1, 1, outcome=VALUE)], purged=[1]))
        async with using(stores) as store:
            assert list((await store.find(Filter())).found) == []
            assert list(await store.journal(1)) == []

    play(story)


async def expired(store: Store, now: int, limit: int = 100) -> set[tuple[int, bool]]:
    """What may be forgotten: the numbers, and whether only the journal."""
    return {(one.seq, one.journal_only) for one in await store.expired(now, limit)}


def test_results_expire_when_their_retention_is_over(stores: Stores) -> None:
    async def story() -> None:
        rows = [a_completed(1, at=NOW + 10), a_completed(2, at=NOW - 1), a_completed(3, at=NOW), an_invocation(4)]
        async with using(stores) as store:
            await store.commit(Writes(created={one.seq: one for one in rows}))
        async with using(stores) as store:
            assert await expired(store, NOW + DAY - 2) == set()
            assert await expired(store, NOW + DAY - 1) == {(2, False)}
            assert await expired(store, NOW + DAY) == {(2, False), (3, False)}
            assert await expired(store, NOW + 100 * DAY) == {(1, False), (2, False), (3, False)}
            assert len(await expired(store, NOW + 100 * DAY, 2)) == 2

    play(story)


def test_journals_expire_before_their_results_where_they_are_kept_for_less_long(stores: Stores) -> None:
    async def story() -> None:
        rows = [
            a_completed(1, journal_retention_ms=1000),
            a_completed(2, journal_retention_ms=2000, flavor=Flavor.WORKFLOW, key="k"),
            a_completed(3, journal_retention_ms=DAY),
            a_completed(4, journal_retention_ms=2 * DAY),
            a_completed(5, journal_retention_ms=0, journal_kept=False),
            a_completed(6, journal_retention_ms=1000, journal_kept=False),
            an_invocation(7, journal_retention_ms=1),
        ]
        async with using(stores) as store:
            await store.commit(Writes(created={one.seq: one for one in rows}))
        async with using(stores) as store:
            assert await expired(store, NOW + 999) == set()
            assert await expired(store, NOW + 1000) == {(1, True)}
            assert await expired(store, NOW + 2000) == {(1, True), (2, True)}
            assert await expired(store, NOW + DAY - 1) == {(1, True), (2, True)}
            assert len(await expired(store, NOW + DAY - 1, 1)) == 1
            assert await expired(store, NOW + DAY) == {(seq, False) for seq in range(1, 7)}, "results first"
            workflows = {(one.seq, one.journal_only): one.workflow for one in await store.expired(NOW + 2000, 9)}
            assert workflows == {(1, True): False, (2, True): True}
            assert {one.seq for one in await store.expired(NOW + DAY, 9) if one.workflow} == {2}

    play(story)


def test_clean_up_in_small_batches_ends_when_everything_is_gone(stores: Stores) -> None:
    async def story() -> None:
        rows = {seq: a_completed(seq, journal_retention_ms=seq % 3 * DAY // 2) for seq in range(1, 31)}
        async with using(stores) as store:
            await store.commit(Writes(created=rows, journal=[a_row(seq, outcome=VALUE) for seq in rows]))
            gone: list[int] = []
            for now, expected in ((NOW + DAY // 2, 20), (NOW + DAY, 50), (NOW + 9 * DAY, 50)):
                while found := await store.expired(now, 4):
                    assert len(found) <= 4
                    gone += [one.seq for one in found]
                    assert len(gone) <= expected
                    await store.commit(
                        Writes(
                            purged=[one.seq for one in found if not one.journal_only],
                            journals_purged=[one.seq for one in found if one.journal_only],
                        )
                    )
                assert len(gone) == expected
            assert list((await store.find(Filter())).found) == []
            assert [row for seq in rows for row in await store.journal(seq)] == []

    play(story)


def test_a_journal_is_forgotten_and_its_invocation_stays(stores: Stores) -> None:
    async def story() -> None:
        one, other = a_completed(1, journal_retention_ms=1000), a_completed(2, journal_retention_ms=1000)
        async with using(stores) as store:
            rows = [a_row(seq, entry, outcome=VALUE) for seq in (1, 2) for entry in (1, 2, 3)]
            await store.commit(Writes(created={1: one, 2: other}, journal=rows))
            await store.commit(Writes(journals_purged=[1, 99]))
        async with using(stores) as store:
            assert (list(await store.journal(1)), len(await store.journal(2))) == ([], 3)
            assert await loaded(store, 1) == msgspec.structs.replace(one, journal_kept=False)
            assert await loaded(store, 2) == other
            assert await expired(store, NOW + 1000) == {(2, True)}
            assert await expired(store, NOW + DAY) == {(1, False), (2, False)}
            await store.commit(Writes(journals_purged=[1]))
            await store.commit(Writes(purged=[1]))
            assert [one.seq for one in (await store.find(Filter())).found] == [2]

    play(story)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
@pytest.mark.parametrize("how", ["created", "changed"])
def test_a_journal_that_is_forgotten_in_the_turn_that_writes_it_is_gone(stores: Stores, how: str, kept: bool) -> None:
    """Of one that ends without journal retention; whatever its row in the same turn says."""

    async def story() -> None:
        done = a_completed(1, journal_retention_ms=0, journal_kept=kept)
        async with using(stores) as store:
            if how == "changed":
                await store.commit(
                    Writes(created={1: an_invocation(1, journal_retention_ms=0)}, journal=[a_row(1, 1)])
                )
            last = [a_row(1, 2, outcome=VALUE)]
            written = Writes(created={1: done}) if how == "created" else Writes(changed={1: done})
            written.journal, written.journals_purged = last, [1]
            await store.commit(written)
        async with using(stores) as store:
            assert list(await store.journal(1)) == []
            assert (await loaded(store, 1)).journal_kept is False
            assert await expired(store, NOW + DAY - 1) == set()

    play(story)


def test_a_journal_and_its_invocation_are_forgotten_in_one_turn(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={1: a_completed(1)}, journal=[a_row(1, 1, outcome=VALUE)]))
            await store.commit(Writes(purged=[1, 1], journals_purged=[1, 1]))
            assert list(await store.journal(1)) == []
            assert list((await store.find(Filter())).found) == []

    play(story)


def test_a_journal_can_be_copied_in_the_turn_that_forgets_it(stores: Stores) -> None:
    """A restart over it, and a purge after that."""

    async def story() -> None:
        rows = [a_row(1, entry, outcome=VALUE, ordinal=15 + entry) for entry in (1, 2)]
        async with using(stores) as store:
            await store.commit(Writes(created={1: a_completed(1)}, journal=list(rows)))
            copied = [row._replace(invocation=2) for row in rows]
            await store.commit(Writes(created={2: an_invocation(2)}, journal=list(copied), purged=[1]))
        async with using(stores) as store:
            assert (list(await store.journal(1)), list(await store.journal(2))) == ([], copied)
            assert (await loaded(store, 2)).last_entry == 2

    play(story)


# ---- listing ----


def a_full_house() -> list[Invocation]:
    """Two of every status, on two services, two handlers, two keys and none."""
    found = []
    for seq, status in enumerate([*Status, *Status], 1):
        fields: dict[str, Any] = {"service": "Shop" if seq % 2 else "Mail", "handler": "ab"[seq % 3 == 0]}
        fields["key"] = (None, "k", "j")[seq % 3]
        found.append(
            a_completed(seq, **fields) if status is Status.COMPLETED else an_invocation(seq, status, **fields)
        )
    return found


FILTERS = [
    Filter(),
    Filter(id="inv_1" + f"{3:033}"),
    Filter(id="inv_1" + "9" * 33),
    Filter(service="Shop"),
    Filter(service="shop"),
    Filter(handler="b"),
    Filter(key="k"),
    Filter(key=""),
    Filter(service="Mail", handler="a", key="j"),
    Filter(status=frozenset({"running"})),
    Filter(status=frozenset({"paused", "backing-off", "no such status"})),
    Filter(status=frozenset({"completed"}), service="Shop"),
    Filter(limit=3),
    Filter(limit=0),
    Filter(before=(NOW, 5)),
    Filter(before=(NOW, 1)),
    Filter(before=(NOW - 1, 9)),
    Filter(before=(10**15, 1), limit=2),
    Filter(service="Shop", before=(NOW, 9), limit=2),
]


@pytest.mark.parametrize("after_ms", [-1, 0, 1])
def test_a_listing_leaves_out_what_is_past_its_retention(stores: Stores, after_ms: int) -> None:
    """From that very moment on, swept away or not."""
    kept = [an_invocation(1, Status.RUNNING), a_completed(2, at=NOW), a_completed(3, at=NOW + 10)]
    over = NOW + kept[1].submission.completion_retention_ms

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={one.seq: one for one in kept}))
            found = [one.seq for one in (await store.find(Filter(now=over + after_ms))).found]
            assert found == ([3, 2, 1] if after_ms < 0 else [3, 1])
            assert sum((await store.count(Filter(now=over + after_ms))).by_status.values()) == len(found)

    play(story)


@pytest.mark.parametrize("where", FILTERS, ids=map(str, range(len(FILTERS))))
def test_a_listing_is_newest_first_and_filtered(stores: Stores, where: Filter) -> None:
    house = a_full_house()
    expected = [view_of(one) for one in reversed(house) if matches(where, one)][: where.limit]

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={one.seq: one for one in house}))
        async with using(stores) as store:
            assert [view_of(one) for one in (await store.find(where)).found] == expected

    play(story)


@pytest.mark.parametrize("page", [1, 4, 15, 16, 17])
def test_pages_follow_each_other_without_a_gap_while_new_ones_arrive(stores: Stores, page: int) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={one.seq: one for one in a_full_house()}))
            seen: list[Invocation] = []
            before = None
            while not seen or before is not None:
                shown = await store.find(Filter(limit=page, before=before))
                assert shown.found, "no page is empty where each row is wanted"
                seen += shown.found
                before = shown.next
                await store.commit(Writes(created={100 + len(seen): an_invocation(100 + len(seen))}))
            assert [one.seq for one in seen] == list(range(2 * len(Status), 0, -1))

    play(story)


def test_those_that_had_their_turn_are_given_in_order_a_batch_at_a_time(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            await store.commit(
                Writes(
                    created={
                        seq: an_invocation(seq, Status.RUNNING if seq % 2 else Status.SUSPENDED)
                        for seq in range(1, 12)
                    }
                )
            )
        async with using(stores) as store:
            assert list(await store.running(0, 4)) == [(1, 0), (3, 0), (5, 0), (7, 0)]
            assert list(await store.running(7, 4)) == [(9, 0), (11, 0)]
            assert list(await store.running(11, 4)) == []

    play(story)


# ---- life ----


def test_a_turn_without_writes_is_nothing(stores: Stores) -> None:
    async def story() -> None:
        async with using(stores) as store:
            assert not Writes()
            await store.commit(Writes())
            assert list((await store.find(Filter())).found) == []

    play(story)


@pytest.mark.parametrize(
    "writes",
    [
        Writes(created={1: an_invocation()}),
        Writes(in_line=[in_line(1)]),
        Writes(changed={1: an_invocation()}),
        Writes(purged=[1]),
        Writes(journal=[a_row()]),
        Writes(state={("S", "k", "n"): None}),
        Writes(state_cleared={("S", "k")}),
        Writes(promises={("S", "k", "n"): EMPTY}),
        Writes(promises_cleared={("S", "k")}),
        Writes(timers_added={(1, 1, 1)}),
        Writes(timers_removed={(1, 1, 1)}),
        Writes(listeners_added={("t", 1, 1)}),
        Writes(listeners_removed={("t", 1, 1)}),
        Writes(signals_added=[(1, Signal(20, "s", EMPTY))]),
        Writes(signals_removed=[(1, 20)]),
        Writes(settings={"A": "{}"}),
        Writes(declared={"A": (1, "")}),
        Writes(journals_purged=[1]),
        Writes(subscriptions={"sub": None}),
        Writes(positions={GroupPartition("c", "g", "t", 0): None}),
        Writes(clusters={"c": None}),
        Writes(answered={Place("1", "signal/s", "k"): Answered("done")}),
        Writes(answered_until=0),
        Writes(ordinals_reserved=0),
        Writes(keys={"k": b"probe"}),
    ],
    ids=lambda writes: next(
        name for name in writes.__struct_fields__ if getattr(writes, name) not in ({}, [], set(), None)
    ),
)
def test_each_kind_of_write_alone_is_something_to_commit(stores: Stores, writes: Writes) -> None:
    """A turn that is falsy is not committed: a kind that is forgotten there would be lost."""
    assert writes

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(writes)

    play(story)


def test_every_kind_of_write_is_covered_above() -> None:
    (mark,) = test_each_kind_of_write_alone_is_something_to_commit.pytestmark  # type: ignore[attr-defined]
    empty = Writes()
    told = {
        name
        for writes in mark.args[1]
        for name in Writes.__struct_fields__
        if getattr(writes, name) != getattr(empty, name)
    }
    assert told == set(Writes.__struct_fields__)


def test_a_closed_store_does_nothing(stores: Stores) -> None:
    async def story() -> None:
        store = stores()
        await store.close()  # before it was opened, too
        await store.open()
        await store.close()
        await store.close()
        for ask in (
            lambda: store.commit(Writes(settings={"A": "{}"})),
            lambda: store.load(Need(seqs={1})),
            lambda: store.journal(1),
            lambda: store.running(0, 1),
            lambda: store.timers(None, 1),
            lambda: store.expired(NOW, 1),
            lambda: store.attached("", 1),
            lambda: store.find(Filter()),
        ):
            with pytest.raises(EngineNotRunningError):
                await ask()
        async with opened(stores()) as (_, where):
            assert where.settings == {}

    play(story)


def test_one_store_at_a_time(stores: Stores) -> None:
    async def story() -> None:
        first, second = stores(), stores()
        await first.open()
        with pytest.raises(StorageError, match="one engine per file"):
            await second.open()
        await second.close()
        await first.commit(Writes(settings={"A": "{}"}))
        await first.close()
        async with opened(stores()) as (_, where):
            assert where.settings == {"A": "{}"}

    play(story)


TWICE = Writes(created={9: an_invocation(9)}, settings={"after": "the error"})


def test_a_refused_commit_leaves_nothing_and_the_next_one_is_written(stores: Stores) -> None:
    """Only an unknown outcome is unknown: what was refused before anything was written harms no other turn."""

    async def story() -> None:
        async with using(stores) as store:
            await store.commit(Writes(created={9: an_invocation(9)}))
            for _ in range(2):
                with pytest.raises(CommitRefused) as caught:
                    await store.commit(TWICE)
                assert "nothing" in str(caught.value)
            await store.commit(Writes(settings={"later": "{}"}, created={10: an_invocation(10)}))
        async with opened(stores()) as (store, where):
            assert where.settings == {"later": "{}"}
            assert [one.seq for one in (await store.find(Filter())).found] == [10, 9]

    play(story)


def test_a_journal_is_read_a_part_at_a_time(stores: Stores) -> None:
    async def story() -> None:
        rows = [a_row(1, entry, outcome=Outcome(True, b"%d" % entry), ordinal=20 + entry) for entry in range(1, 8)]
        cancel = Row(1, 0, 30, "cancel", None, None, 0, 30, False, b"x", NOW)
        late = Row(1, 3, COMPLETION, "call", None, None, 0, 40, True, b"late", NOW)
        rows[2] = a_row(1, 3, kind=Kind.CALL, name="S/h", detail=an_invocation(9).id)
        async with using(stores) as store:
            await store.commit(Writes(created={1: an_invocation(1)}, journal=[cancel, *rows, late]))
            whole = list(await store.journal(1))
            assert len(whole) == 9
            assert list(await store.entries(1)) == whole
            assert list(await store.entries(1, -1, 2)) == whole[:3]
            assert list(await store.entries(1, 2, 2)) == whole[3:6], "an entry with all of its rows"
            assert list(await store.entries(1, 4, 100)) == whole[6:]
            assert list(await store.entries(1, 7, 100)) == list(await store.entries(2, 0, 9)) == []

    play(story)


# ---- what is open ----


def test_what_is_open_is_counted_by_handler_and_status_with_the_oldest_of_each(stores: Stores) -> None:
    """Also from another thread, which is where an exporter of metrics asks."""

    async def story() -> None:
        async with opened(stores()) as (store, _):
            assert store.backlog() == Backlog({}, 0)

            def one(seq: int, target: str, status: Status, at: int, **fields: Any) -> Invocation:
                service, _, name = target.partition("/")
                found = an_invocation(seq, status, service=service, handler=name, **fields)
                return msgspec.structs.replace(found, created_at=at)

            open_ones = [
                one(1, "A/x", Status.PAUSED, NOW),
                one(2, "A/x", Status.PAUSED, NOW - 5),
                one(3, "A/x", Status.READY, NOW + 1, place=1),
                one(4, "A/y", Status.RUNNING, NOW),
                one(5, "B/x", Status.RUNNING, NOW),
            ]
            done = a_completed(seq=6)
            await store.commit(
                Writes(
                    created={each.seq: each for each in [*open_ones, done]}, timers_added={(NOW, 4, 1), (NOW, 5, 1)}
                )
            )
            expected = Backlog(
                {
                    ("A", "x", "paused"): Waiting(2, NOW - 5),
                    ("A", "x", "ready"): Waiting(1, NOW + 1),
                    ("A", "y", "running"): Waiting(1, NOW),
                    ("B", "x", "running"): Waiting(1, NOW),
                },
                2,
            )
            assert store.backlog() == expected
            assert await to_thread.run_sync(store.backlog) == expected
        with pytest.raises(EngineNotRunningError):
            store.backlog()

    play(story)
