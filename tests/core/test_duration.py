"""The duration grammar as tables of examples, then what must hold for any input."""

import math
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable.core.duration import MAX_DAYS, Duration, parse, render, render_iso

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MAX_MS = MAX_DAYS * DAY

FRIENDLY = [
    ("0", 0),
    ("0s", 0),
    ("0 days", 0),
    ("5 hours", 5 * HOUR),
    ("5hours", 5 * HOUR),
    ("5hour", 5 * HOUR),
    ("5 hrs", 5 * HOUR),
    ("5 hr", 5 * HOUR),
    ("5h", 5 * HOUR),
    ("90s", 90_000),
    ("1500ms", 1500),
    ("36h", 36 * HOUR),
    ("24h", DAY),
    ("2m60s", 3 * MINUTE),
    ("1m30s", 90_000),
    ("1h 30m", 90 * MINUTE),
    ("1 hour, 30 minutes", 90 * MINUTE),
    ("1h, 30m", 90 * MINUTE),
    ("1d 12h", 36 * HOUR),
    ("1h\t30m", 90 * MINUTE),
    ("1.5h", 90 * MINUTE),
    ("1,5h", 90 * MINUTE),
    ("1h 1.5m", HOUR + 90_000),
    ("1w", 7 * DAY),
    ("2 weeks", 14 * DAY),
    ("1w 1d 1h 1m 1s 1ms", 8 * DAY + HOUR + MINUTE + 1001),
    ("3 millis", 3),
    ("3 msecs", 3),
    ("+5s", 5000),
    ("5s ", 5000),
    ("5s   ", 5000),
]

CLOCK = [
    ("01:30:00", 90 * MINUTE),
    ("1:30:00", 90 * MINUTE),
    ("1d 01:30:00", DAY + 90 * MINUTE),
    ("1 week, 01:30:00", 7 * DAY + 90 * MINUTE),
    ("00:00:05.5", 5500),
    ("00:00:05,5", 5500),
    ("+100:00:00", 100 * HOUR),
]

ISO = [
    ("P0D", 0),
    ("PT0S", 0),
    ("PT5H", 5 * HOUR),
    ("PT1H30M", 90 * MINUTE),
    ("P1D", DAY),
    ("P1DT12H", 36 * HOUR),
    ("P40D", 40 * DAY),
    ("P1W", 7 * DAY),
    ("PT0.5S", 500),
    ("PT0,5S", 500),
    ("PT1.5H", 90 * MINUTE),
    ("pt5h", 5 * HOUR),
    ("p1d", DAY),
    ("+PT5S", 5000),
    ("PT86400S", DAY),
]

ROUNDED_UP = [
    ("1.0005s", 1001),
    ("0.1ms", 1),
    ("100us", 1),
    ("100\u00b5s", 1),
    ("100\u03bcs", 1),
    ("100ns", 1),
    ("3 microseconds", 1),
    ("1ms 1us", 2),
    ("1000us", 1),
    ("1001us", 2),
    ("1000000ns", 1),
    ("0.000000001h", 1),
]

REJECTED = [
    "",
    " ",
    "5",
    "100",
    "00",
    "+0",
    " 0",
    " 5s",
    "\n5s",
    ".5s",
    "1.s",
    "1.5d",
    "1.5w",
    "5H",
    "5 S",
    "5M",
    "2 Hours",
    "1h 30",
    "1e3s",
    "30m 1h",
    "1h 1h",
    "1h 60min 1m",
    "1.5h 30m",
    "1h,30m",
    "1h , 30m",
    "1h,",
    "1h, ",
    "1h and 30m",
    "-5s",
    "-PT5S",
    "5s ago",
    "1mo",
    "1 month",
    "1y",
    "P1M",
    "P1Y",
    "P1Y2M",
    "P",
    "PT",
    "P1DT",
    "PT1D",
    "P1H",
    "PT1M1H",
    "PT1.5H30M",
    "P1.5D",
    "PT5H ",
    "PT5H 30m",
    "01:30",
    "1:30:00:00",
    "1h 01:30:00",
    "5m 01:30:00",
    "01:30:00 5s",
    "1:30.5:00",
    "+ 5s",
    "++5s",
    "\u0665s",
    "5\u017f",
    "PT5\u017f",
    "7304485d",
    "99999999999999999999h",
    "9" * 5000 + "s",
    "five seconds",
    "s",
    "unlimited",
]


@pytest.mark.parametrize(("text", "ms"), FRIENDLY + CLOCK + ISO + ROUNDED_UP)
def test_text_in_any_of_the_three_forms_is_read(text: str, ms: int) -> None:
    assert parse(text) == ms


@pytest.mark.parametrize(
    ("words", "ms"),
    [
        ("w wk wks week weeks", 7 * DAY),
        ("d day days", DAY),
        ("h hr hrs hour hours", HOUR),
        ("m min mins minute minutes", MINUTE),
        ("s sec secs second seconds", 1000),
        ("ms msec msecs milli millis millisecond milliseconds", 1),
    ],
)
def test_every_word_of_a_unit_means_the_same(words: str, ms: int) -> None:
    for word in words.split():
        assert parse(f"1{word}") == parse(f"1 {word}") == ms


@pytest.mark.parametrize(
    ("words", "per_ms"),
    [
        ("us \u00b5s usec usecs micro micros microsecond microseconds", 1000),
        ("ns nsec nsecs nano nanos nanosecond nanoseconds", 1_000_000),
    ],
)
def test_every_word_of_a_unit_below_a_millisecond_means_the_same(words: str, per_ms: int) -> None:
    for word in words.split():
        assert parse(f"{2 * per_ms}{word}") == 2
        assert parse(f"{2 * per_ms + 1} {word}") == 3


@pytest.mark.parametrize("text", REJECTED, ids=lambda text: repr(text[:20]))
def test_other_text_is_refused_with_what_was_found(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as") as caught:
        parse(text)
    assert f"found {text[:20]!r}"[:-1] in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("5", "add a unit"),
        (" 5s", "remove the leading space"),
        ("-5s", "cannot be negative"),
        ("5s ago", "cannot be negative"),
        ("5H", "lower case: h"),
        ("1mo", "use days or smaller"),
        ("P1Y", "use days or smaller"),
        ("30m 1h", "largest to smallest"),
        ("1.5h 30m", "only the last number may have a fraction"),
        ("1.5d", "write 1d 12h, not 1.5d"),
        ("3 bananas", "no unit 'bananas'"),
        ("1h and 30m", "numbers each with a unit"),
        ("7304485d", "stay within 7304484 days"),
    ],
)
def test_a_refusal_names_the_way_out(text: str, way_out: str) -> None:
    with pytest.raises(ValueError, match=way_out):
        parse(text)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (0, 0),
        (-0.0, 0),
        (5, 5000),
        (0.5, 500),
        (1.1, 1100),
        (0.1 + 0.2, 300),
        (0.0001, 1),
        (1e-12, 1),
        (MAX_DAYS * 86_400, MAX_MS),
        (timedelta(0), 0),
        (timedelta(days=1, hours=12), 36 * HOUR),
        (timedelta(microseconds=1), 1),
        (timedelta(milliseconds=2, microseconds=1), 3),
        (timedelta(days=MAX_DAYS), MAX_MS),
        (f"{MAX_DAYS}d", MAX_MS),
    ],
)
def test_numbers_are_seconds_and_rests_are_rounded_up(value: Duration, ms: int) -> None:
    assert parse(value) == ms


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.001,
        math.nan,
        math.inf,
        -math.inf,
        1e300,
        10**400,
        MAX_DAYS * 86_400 + 1,
        True,
        False,
        timedelta(microseconds=-1),
        timedelta.min,
        timedelta.max,
        timedelta(days=MAX_DAYS, microseconds=1),
        None,
        b"5s",
        [5],
    ],
)
def test_other_values_are_refused(value: Duration) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse(value)


@pytest.mark.parametrize(
    ("ms", "friendly", "iso"),
    [
        (0, "0s", "PT0S"),
        (1, "1ms", "PT0.001S"),
        (500, "500ms", "PT0.5S"),
        (1500, "1s 500ms", "PT1.5S"),
        (90_000, "1m 30s", "PT90S"),
        (3 * MINUTE, "3m", "PT180S"),
        (5 * HOUR, "5h", "PT18000S"),
        (DAY, "1d", "PT86400S"),
        (36 * HOUR, "1d 12h", "PT129600S"),
        (14 * DAY, "14d", "PT1209600S"),
        (DAY + HOUR + MINUTE + 1010, "1d 1h 1m 1s 10ms", "PT90061.01S"),
        (MAX_MS, "7304484d", "PT631107417600S"),
    ],
)
def test_printing_is_compact_and_carries_up_to_days(ms: int, friendly: str, iso: str) -> None:
    assert render(ms) == friendly
    assert render_iso(ms) == iso


def test_printing_refuses_what_is_negative() -> None:
    for printer in (render, render_iso):
        with pytest.raises(ValueError, match="found -1"):
            printer(-1)


durations_ms = st.integers(0, MAX_MS) | st.integers(0, 3 * DAY)


@given(durations_ms)
def test_what_is_printed_reads_back(ms: int) -> None:
    assert parse(render(ms)) == ms
    assert parse(render(ms).replace(" ", "")) == ms
    assert parse(render(ms).replace(" ", ", ")) == ms
    assert parse(render_iso(ms)) == ms
    assert parse(render_iso(ms).lower()) == ms


@given(st.text(max_size=12) | st.text("0123456789dhmsPT:., -+wun", max_size=16))
@example("9" * 30_000)
@example("1h" * 10_000 + "!")
@example("1" + " " * 30_000 + "!")
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        ms = parse(text)
    except ValueError:
        return
    assert 0 <= ms <= MAX_MS


@given(st.timedeltas(timedelta(0), timedelta(days=MAX_DAYS)))
def test_a_timedelta_is_never_shortened_and_grows_less_than_a_millisecond(delta: timedelta) -> None:
    assert timedelta(0) <= timedelta(milliseconds=parse(delta)) - delta < timedelta(milliseconds=1)


@given(st.integers(0, MAX_DAYS * 86_400) | st.floats(0, MAX_DAYS * 86_400))
def test_a_number_agrees_with_the_timedelta_of_as_many_seconds(seconds: float) -> None:
    expected = parse(timedelta(seconds=seconds))
    assert parse(seconds) == (expected or math.ceil(min(seconds, 1)))


@given(st.integers(0, 10**9))
def test_text_agrees_with_the_timedelta_of_as_many_microseconds(us: int) -> None:
    assert parse(f"{us}us") == parse(timedelta(microseconds=us))
    assert parse(f"{us // 10**6}.{us % 10**6:06}s") == parse(timedelta(microseconds=us))
