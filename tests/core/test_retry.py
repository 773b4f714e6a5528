"""Waits, exhaustion, layering and refusals of a retry policy."""

import math
import sys
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from durable.core.duration import parse
from durable.core.retry import DEFAULT, RetryPolicy


def delays(policy: RetryPolicy, count: int) -> list[int]:
    return [policy.delay_ms(failures) for failures in range(1, count + 1)]


def test_waits_grow_by_the_factor_up_to_the_ceiling() -> None:
    policy = RetryPolicy(initial_interval="50ms", factor=2, max_interval="400ms")
    assert delays(policy, 6) == [50, 100, 200, 400, 400, 400]


def test_a_factor_of_one_is_a_steady_wait() -> None:
    assert delays(RetryPolicy("3s", 1.0), 3) == [3000, 3000, 3000]
    assert RetryPolicy("3s", 1.0).delay_ms(10**400) == 3000


def test_a_fractional_factor_gives_the_nearest_millisecond() -> None:
    assert delays(RetryPolicy("100ms", 1.1), 4) == [100, 110, 121, 133]


def test_a_ceiling_below_the_first_wait_is_every_wait() -> None:
    assert delays(RetryPolicy("10s", 2.0, "1s"), 3) == [1000, 1000, 1000]


def test_a_first_wait_of_zero_retries_at_once_forever() -> None:
    assert [RetryPolicy(0).delay_ms(failures) for failures in (1, 2, 5000, 10**400)] == [0, 0, 0, 0]


@pytest.mark.parametrize("factor", [1.0001, 2, 2.0, 10**300, sys.float_info.max])
def test_a_huge_number_of_failures_waits_as_long_as_the_ceiling(factor: float) -> None:
    policy = RetryPolicy(factor=factor)
    for failures in (10**6, 10**18, 10**400):
        assert policy.delay_ms(failures) == 60_000


@pytest.mark.parametrize("failures", [0, -1])
def test_nothing_waits_before_the_first_failure(failures: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        DEFAULT.delay_ms(failures)


def test_the_first_try_counts_toward_max_attempts() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert [policy.exhausted(failures) for failures in range(5)] == [False, False, False, True, True]


def test_one_attempt_means_no_retry() -> None:
    assert RetryPolicy(max_attempts=1).exhausted(1)


def test_no_limit_is_never_exhausted() -> None:
    assert not RetryPolicy(max_attempts=None).exhausted(10**18)


def test_the_default_is_seventy_tries_over_about_an_hour_then_pause() -> None:
    assert delays(DEFAULT, 8) == [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]
    assert sum(delays(DEFAULT, 69)) == 3_783_500
    assert not DEFAULT.exhausted(69)
    assert DEFAULT.exhausted(70)
    assert DEFAULT.on_max_attempts == "pause"


def test_an_empty_policy_behaves_as_the_default() -> None:
    empty = RetryPolicy()
    assert delays(empty, 10) == delays(DEFAULT, 10)
    assert [empty.exhausted(n) for n in (69, 70)] == [False, True]
    assert empty.merged_over(DEFAULT) == DEFAULT


def test_each_level_overrides_the_one_outside_it_field_by_field() -> None:
    engine = RetryPolicy(max_attempts=10, max_interval="10s")
    service = RetryPolicy(initial_interval="1s", on_max_attempts="kill")
    handler = RetryPolicy(max_attempts=None)

    merged = handler.merged_over(service).merged_over(engine)

    assert merged == RetryPolicy("1s", UNSET, "10s", None, "kill")
    assert merged.merged_over(DEFAULT) == RetryPolicy("1s", 2.0, "10s", None, "kill")
    assert engine == RetryPolicy(max_attempts=10, max_interval="10s")


def test_intervals_are_kept_as_given_and_a_timedelta_as_text() -> None:
    policy = RetryPolicy(initial_interval=0.25, max_interval=timedelta(minutes=1, seconds=30))
    assert (policy.initial_interval, policy.max_interval) == (0.25, "1m 30s")


@pytest.mark.parametrize(
    ("policy", "encoded"),
    [
        (RetryPolicy(), b"{}"),
        (RetryPolicy(max_attempts=None), b'{"max_attempts":null}'),
        (
            RetryPolicy("PT1S", 1.5, 20, 3),
            b'{"initial_interval":"PT1S","factor":1.5,"max_interval":20,"max_attempts":3}',
        ),
        (
            RetryPolicy(timedelta(seconds=2), max_interval=0.5),
            b'{"initial_interval":"2s","max_interval":0.5}',
        ),
        (
            DEFAULT,
            b'{"initial_interval":"500ms","factor":2.0,"max_interval":"1m","max_attempts":70,"on_max_attempts":"pause"}',
        ),
    ],
)
def test_a_policy_comes_back_equal_from_json_and_unset_fields_stay_out(policy: RetryPolicy, encoded: bytes) -> None:
    assert msgspec.json.encode(policy) == encoded
    assert msgspec.json.decode(encoded, type=RetryPolicy) == policy


@pytest.mark.parametrize(
    "encoded",
    [b'{"factor":0.5}', b'{"max_attempts":0}', b'{"initial_interval":"5"}', b'{"on_max_attempts":"Pause"}'],
)
def test_decoding_refuses_what_construction_refuses(encoded: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(encoded, type=RetryPolicy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("initial_interval", "5"),
        ("initial_interval", -1),
        ("initial_interval", True),
        ("initial_interval", None),
        ("initial_interval", timedelta(seconds=-1)),
        ("max_interval", "1 fortnight"),
        ("max_interval", math.inf),
        ("factor", 0.99),
        ("factor", 0),
        ("factor", -2.0),
        ("factor", math.nan),
        ("factor", math.inf),
        ("factor", 10**400),
        ("factor", True),
        ("factor", "2"),
        ("factor", None),
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("max_attempts", 2.0),
        ("max_attempts", True),
        ("max_attempts", "unlimited"),
        ("on_max_attempts", "Pause"),
        ("on_max_attempts", None),
    ],
)
def test_a_field_without_meaning_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected "):
        RetryPolicy(**{field: value})


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DEFAULT.max_attempts = 1  # type: ignore[misc]


intervals = st.sampled_from(["0", "1ms", "50ms", "PT0.5S", "3s", "1m", "1d", "00:01:30"]) | st.floats(0, 1e6)
factors = st.floats(1, 1e6) | st.sampled_from([1, 1.0, 2, 1e308])
policies = st.builds(
    RetryPolicy,
    initial_interval=st.just(UNSET) | intervals,
    factor=st.just(UNSET) | factors,
    max_interval=st.just(UNSET) | intervals,
    max_attempts=st.just(UNSET) | st.none() | st.integers(1, 1000),
    on_max_attempts=st.sampled_from([UNSET, "pause", "kill"]),
)


@given(intervals, factors, intervals, st.integers(1, 10**6))
def test_waits_never_shrink_and_stay_within_the_ceiling(
    initial: float | str, factor: float, ceiling: float | str, failures: int
) -> None:
    policy = RetryPolicy(initial, factor, ceiling)
    assert policy.delay_ms(1) == min(parse(initial), parse(ceiling))
    assert 0 <= policy.delay_ms(failures) <= policy.delay_ms(failures + 1) <= parse(ceiling)


@given(policies, st.integers(0, 2000))
def test_once_exhausted_a_policy_stays_so(policy: RetryPolicy, failures: int) -> None:
    assert policy.exhausted(failures) <= policy.exhausted(failures + 1)


@given(policies, policies, policies)
def test_layering_does_not_depend_on_where_one_starts(
    step: RetryPolicy, handler: RetryPolicy, service: RetryPolicy
) -> None:
    left = step.merged_over(handler).merged_over(service)
    right = step.merged_over(handler.merged_over(service))
    assert left == right
    assert step.merged_over(step) == step
    assert step.merged_over(RetryPolicy()) == RetryPolicy().merged_over(step) == step


@given(policies)
def test_any_policy_comes_back_equal_from_json(policy: RetryPolicy) -> None:
    assert msgspec.json.decode(msgspec.json.encode(policy), type=RetryPolicy) == policy
