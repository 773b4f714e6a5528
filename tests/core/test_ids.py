"""Ids: their form, their order, what is derived from what, and that reading one never crashes."""

import random
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durable.core.ids import (
    DIGITS,
    FRESH_BYTES,
    READABLE,
    awakeable_id,
    base62,
    child_id,
    claimed_id,
    fingerprint,
    fresh_id,
    fresh_ids,
    invocation_id,
    is_invocation_id,
    parse_awakeable_id,
    run_number,
    seed,
)
from durable.core.topics import promise_topic

ORDINALS = st.integers(0, READABLE[0] - 1)
ENTROPY = st.integers(0, READABLE[1] - 1)
IDS = st.builds(invocation_id, ORDINALS, ENTROPY)
#: As many as six base-62 digits hold: more entries than any journal can have.
ENTRIES = st.integers(1, 62**6 - 1)
few = settings(max_examples=25)


def value_of(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * 62 + DIGITS.index(digit)
    return number


def test_the_digits_sort_as_their_values_do() -> None:
    assert list(DIGITS) == sorted(string.ascii_letters + string.digits)


@few
@given(st.integers(1, 30).flatmap(lambda width: st.tuples(st.just(width), st.integers(0, 62**width - 1))))
@example((11, 62**11 - 1))
@example((1, 61))
def test_base62_reads_back_and_has_its_width(case: tuple[int, int]) -> None:
    width, number = case
    text = base62(number, width)
    assert len(text) == width
    assert value_of(text) == number


@few
@given(ORDINALS, ENTROPY)
@example(0, 0)
@example(READABLE[0] - 1, READABLE[1] - 1)
def test_an_invocation_id_has_38_characters_and_holds_both_numbers(ordinal: int, entropy: int) -> None:
    id = invocation_id(ordinal, entropy)
    assert len(id) == 38
    assert is_invocation_id(id)
    assert value_of(id[5:16]) == ordinal
    assert value_of(id[16:]) == entropy


@few
@given(ORDINALS, ORDINALS, ENTROPY, ENTROPY)
def test_ids_sort_by_their_ordinals(one: int, other: int, entropy: int, more: int) -> None:
    if one != other:
        assert (invocation_id(one, entropy) < invocation_id(other, more)) == (one < other)


@few
@given(IDS, ENTRIES)
def test_a_childs_id_is_always_the_same_and_stays_near_its_parents(parent: str, entry: int) -> None:
    child = child_id(parent, entry)
    assert child == child_id(parent, entry)
    assert is_invocation_id(child)
    assert child[:16] == parent[:16]
    assert child != parent


@few
@given(IDS, ENTRIES, ENTRIES)
def test_two_entries_have_two_children(parent: str, one: int, other: int) -> None:
    assert (child_id(parent, one) == child_id(parent, other)) == (one == other)


@few
@given(st.text(), st.none() | st.text(), st.text(), st.text())
def test_a_claimed_id_is_an_invocation_id_and_always_the_same(
    service: str, key: str | None, handler: str, idempotency_key: str
) -> None:
    service, handler, idempotency_key = (
        text.encode("utf-8", "replace").decode() for text in (service, handler, idempotency_key)
    )
    key = None if key is None else key.encode("utf-8", "replace").decode()
    id = claimed_id(service, key, handler, idempotency_key)
    assert is_invocation_id(id)
    assert id == claimed_id(service, key, handler, idempotency_key)


def test_no_key_and_an_empty_key_claim_two_ids() -> None:
    names = [
        ("S", None, "h", "i"),
        ("S", "", "h", "i"),
        ("S", "k", "h", "i"),
        ("S", "", "h", "ki"),
        ("T", "", "h", "i"),
    ]
    assert len({claimed_id(*name) for name in names}) == len(names)


#: Few letters, so that parts that were cut at another place are tried often. No NUL: that is refused at every door.
PARTS = st.text("a/0k", max_size=4)
#: A service's name has no slash and is not empty: that is refused where it is declared.
SERVICES = st.text("a0k", min_size=1, max_size=4)
CLAIMS = st.tuples(SERVICES, st.none() | PARTS, SERVICES, PARTS)
PROMISES = st.tuples(SERVICES, PARTS, PARTS)


@given(CLAIMS, CLAIMS)
@example(("a", "k", "a", ""), ("a", None, "k", "a"))
def test_two_requests_never_claim_one_id(
    one: tuple[str, str | None, str, str], other: tuple[str, str | None, str, str]
) -> None:
    assert (claimed_id(*one) == claimed_id(*other)) == (one == other)


@given(PROMISES, PROMISES)
@example(("a", "0/1", "a"), ("a", "0", "1/a"))
@example(("a", "", "0//a"), ("a", "0/", "a"))
def test_two_promises_never_have_one_topic(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (promise_topic(*one) == promise_topic(*other)) == (one == other)


@given(st.tuples(IDS, ENTRIES, st.integers(0, 2**24 - 1)), st.tuples(IDS, ENTRIES, st.integers(0, 2**24 - 1)))
@example((invocation_id(1, 1), 1, 1), (invocation_id(1, 1), 1, 0))
def test_two_awakeables_never_have_one_id(one: tuple[str, int, int], other: tuple[str, int, int]) -> None:
    assert (awakeable_id(*one) == awakeable_id(*other)) == (one == other)


def in_restates_reading(digits: str) -> int:
    """Its digits are 0-9a-zA-Z."""
    number = 0
    for digit in digits.swapcase():
        number = number * 62 + DIGITS.index(digit)
    return number


@given(ORDINALS, st.binary(min_size=FRESH_BYTES, max_size=FRESH_BYTES))
@example(READABLE[0] - 1, b"\xff" * FRESH_BYTES)
def test_a_fresh_id_can_be_read_and_takes_the_noise_that_it_is_given(ordinal: int, noise: bytes) -> None:
    id = fresh_id(ordinal, noise)
    assert is_invocation_id(id)
    assert value_of(id[5:16]) == ordinal
    assert value_of(id[16:]) < READABLE.entropies
    assert in_restates_reading(id[16:]) < 2**128
    for place in range(FRESH_BYTES):
        other = bytearray(noise)
        other[place] = (noise[place] + 1) % 256
        assert fresh_id(ordinal, bytes(other)) != id, "every byte counts"


@given(IDS, ENTRIES, st.tuples(SERVICES, st.none() | PARTS, SERVICES, PARTS))
@example(invocation_id(READABLE[0] - 1, READABLE[1] - 1), 1, ("Shop", None, "buy", "order-1"))
def test_every_id_can_be_read_by_restates_clients(
    id: str, entry: int, claim: tuple[str, str | None, str, str]
) -> None:
    for one in (id, child_id(id, entry), claimed_id(*claim)):
        assert in_restates_reading(one[5:16]) < 2**64, one
        assert in_restates_reading(one[16:]) < 2**128, one


def test_ids_are_derived_as_they_were_when_old_files_were_written() -> None:
    """A request that is repeated with a newer version finds what the older one accepted."""
    parent = invocation_id(1, 2)
    assert claimed_id("Shop", None, "buy", "order-1") == "inv_12DxJ9NbfX555AK9Sm6usbebFHvyZBJiXl"
    assert claimed_id("Account", "k", "pay", "order-1") == "inv_14f2ScIhP5ME3th2hDYbdi6x5VbulmDLYc"
    assert claimed_id("SignUp", "ada", "run", "") == "inv_12fME6t3OAUF5arErDquozbuv7BeYaNNGk"
    assert child_id(parent, 3) == "inv_1000000000014LjhtqFMcOHN7v7qBle9DI"
    assert child_id(parent, 3, f"{parent}.7.1000") == "inv_1000000000012oLvZ5lz2z11fmUMxmuXKb"
    assert awakeable_id(parent, 3, run_number(parent)) == "sign_100000000001000000000000000000000218w6Th0GZff"
    assert promise_topic("SignUp", "a/b", "mail") == "promise/SignUp/3/a/b/mail"


@few
@given(IDS, ENTRIES)
@example(invocation_id(0, 0), 1)
@example(invocation_id(READABLE[0] - 1, READABLE[1] - 1), 62**6 - 1)
@example(invocation_id(1, 1), 62)
def test_an_awakeables_id_reads_back(invocation: str, entry: int) -> None:
    assert parse_awakeable_id(awakeable_id(invocation, entry)) == (invocation, entry, 0)
    run = run_number(f"{invocation}.{entry}")
    assert parse_awakeable_id(awakeable_id(invocation, entry, run)) == (invocation, entry, run)


@few
@given(st.text() | st.from_regex(r"(inv|sign)_1[0-9A-Za-z]{30,45}"))
@example("")
@example("sign_1" + "0" * 33)
@example("sign_1" + "0" * 33 + "0")
@example("sign_1" + "0" * 33 + "z" * 7)
@example("sign_1" + "0" * 33 + "z" * 13)
@example("sign_1" + "0" * 33 + "1\n")
@example("inv_1" + "0" * 33 + "\n")
@example("inv_1" + "٣" * 33)
def test_any_text_is_read_or_refused_and_what_is_read_is_written_the_same(text: str) -> None:
    parsed = parse_awakeable_id(text)
    if parsed is not None:
        invocation, entry, run = parsed
        assert is_invocation_id(invocation)
        assert entry >= 1
        assert awakeable_id(invocation, entry, run) == text
    assert is_invocation_id(text) == (len(text) == 38 and text[:5] == "inv_1" and all(c in DIGITS for c in text[5:]))


def test_an_awakeables_id_is_no_invocation_id() -> None:
    invocation = invocation_id(7, 8)
    assert parse_awakeable_id(invocation) is None
    assert not is_invocation_id(awakeable_id(invocation, 1))


@few
@given(IDS, IDS)
def test_the_seed_of_the_random_numbers_depends_on_the_invocation_alone(one: str, other: str) -> None:
    assert 0 <= seed(one) < 2**128
    assert (seed(one) == seed(other)) == (one == other)


@few
@given(st.lists(st.binary(max_size=16), max_size=4), st.lists(st.binary(max_size=16), max_size=4))
def test_a_fingerprint_tells_other_parts_apart(one: list[bytes], other: list[bytes]) -> None:
    assert len(fingerprint(*one)) == 8
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


@pytest.mark.parametrize("ordinal", [0, 3843, 7687, 1_796_008_868_339 << 16])
def test_many_fresh_ids_are_those_that_one_by_one_would_be(ordinal: int) -> None:
    noise = random.Random(ordinal).randbytes(10 * FRESH_BYTES)
    one_by_one = [fresh_id(ordinal + n, noise[n * FRESH_BYTES : (n + 1) * FRESH_BYTES]) for n in range(10)]
    assert fresh_ids(ordinal, noise) == one_by_one == sorted(one_by_one)
    assert fresh_ids(ordinal, b"") == []
