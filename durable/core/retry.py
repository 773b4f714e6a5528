"""How often a failed attempt is retried, how long it waits, and what happens when no attempts are left.

A policy is data with pure methods. Policies are given on the engine, the service, the handler and the step, and may
leave fields unset: each overrides the one outside it field by field (`RetryPolicy.merged_over`). What none of them
sets comes from `DEFAULT`.
"""

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from durable.core.duration import Duration, parse, render

if TYPE_CHECKING:
    _Interval = Duration
else:
    # msgspec takes one str-like type per union, and timedelta is one; __post_init__ stores it as text.
    _Interval = float | int | str


class RetryPolicy(msgspec.Struct, frozen=True):
    """Exponential back-off with a ceiling. A field that is left unset is decided by the policy further out.

    The first wait is `initial_interval`, and each further one is `factor` times the one before, but never more than
    `max_interval`. A timedelta is stored as text ("5m"), so that a policy comes back equal from JSON.

    Raises:
        ValueError: at construction, if a field has an invalid value.
    """

    #: The wait after the first failure. Default 500 ms.
    initial_interval: _Interval | UnsetType = UNSET
    #: What each wait is multiplied by to give the next: at least 1, which means equal waits. Default 2.
    factor: float | UnsetType = UNSET
    #: The longest wait; if it is smaller than `initial_interval`, every wait is this long. Default 1 minute.
    max_interval: _Interval | UnsetType = UNSET
    #: How many attempts there are, counting the first: 1 means no retry, None no limit. Default 70.
    max_attempts: int | UnsetType | None = UNSET
    #: What happens when no attempts are left: "pause" waits for an operator, "kill" fails with the last error.
    #: Default "pause". A step's own policy pauses only if it says so itself; else the handler gets a `TerminalError`.
    on_max_attempts: Literal["pause", "kill"] | UnsetType = UNSET
    #: How long after the first failure the next attempt may begin, across restarts; None (the default): no limit.
    max_duration: _Interval | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        for name in ("initial_interval", "max_interval", "max_duration"):
            _check_interval(self, name)
        _check_factor(self.factor)
        _check_max_attempts(self.max_attempts)
        if self.on_max_attempts not in (UNSET, "pause", "kill"):
            raise ValueError(f"on_max_attempts: expected 'pause' or 'kill', found {self.on_max_attempts!r}")

    def delay_ms(self, failures: int) -> int:
        """Return the wait in milliseconds after the `failures`-th failure in a row, the first being 1.

        Raises:
            ValueError: `failures` is below 1, as nothing has failed yet.
        """
        if failures < 1:
            raise ValueError(f"expected failures counted from 1, found {failures}: nothing waits before a failure")
        initial_ms, factor, delay_ms_max, _, _ = _numbers(self)
        if factor == 1 or initial_ms == 0:
            return min(initial_ms, delay_ms_max)
        try:
            return round(min(initial_ms * factor ** (failures - 1), delay_ms_max))
        except OverflowError:  # beyond what a float holds is beyond any ceiling
            return delay_ms_max

    @property
    def timed(self) -> bool:
        """Whether it limits for how long there are retries."""
        return self.max_duration is not UNSET and self.max_duration is not None

    def exhausted(self, failures: int, lasting_ms: int = 0) -> bool:
        """Whether no attempt is left after `failures` in a row, the first `lasting_ms` before the next attempt."""
        _, _, _, max_attempts, max_duration_ms = _numbers(self)
        if max_duration_ms is not None and lasting_ms > max_duration_ms:
            return True
        return max_attempts is not None and failures >= max_attempts

    def merged_over(self, base: "RetryPolicy") -> "RetryPolicy":
        """Return `base` with every field that is set here taking its place."""
        mine = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}
        return msgspec.structs.replace(base, **mine) if mine else base


@lru_cache(maxsize=256)
def _numbers(policy: RetryPolicy) -> tuple[int, float, int, int | None, int | None]:
    """First wait in ms, factor, longest wait, most attempts, longest time of all: few policies fail often."""
    full = policy.merged_over(DEFAULT)
    longest_ms, duration = _given_ms(full.max_interval), full.max_duration
    duration_ms = None if duration is None or duration is UNSET else parse(duration)
    first_ms = _given_ms(full.initial_interval)
    return first_ms, float(_given(full.factor)), longest_ms, _given(full.max_attempts), duration_ms


_T = TypeVar("_T")


def _given(value: _T | UnsetType) -> _T:
    """Narrow a field of a policy that was merged over `DEFAULT`, where none is unset."""
    assert not isinstance(value, UnsetType), "a policy merged over DEFAULT has every field set"
    return value


def _given_ms(value: Duration | UnsetType) -> int:
    """Do as `_given`, then parse: of a union this wide, mypy infers no `_T`."""
    assert not isinstance(value, UnsetType), "a policy merged over DEFAULT has every field set"
    return parse(value)


def _check_interval(policy: RetryPolicy, name: str) -> None:
    value = getattr(policy, name)
    if value is UNSET or (value is None and name == "max_duration"):
        return
    try:
        ms = parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(value, str | int | float):
        msgspec.structs.force_setattr(policy, name, render(ms))


def _check_factor(value: Any) -> None:
    if value is UNSET:
        return
    # NaN fails the comparison, and so does an int too large for a float.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= sys.float_info.max:
        raise ValueError(f"factor: expected a finite number that is 1 or more, found {value!r}; 1 is a steady wait")


def _check_max_attempts(value: object) -> None:
    if value is UNSET or value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"max_attempts: expected None or an int that is 1 or more, found {value!r}; "
            "1 is no retry, None is no limit"
        )


#: What holds where no policy says otherwise: 70 tries over about an hour, then pause.
DEFAULT: Final = RetryPolicy(
    initial_interval="500ms",
    factor=2.0,
    max_interval="1m",
    max_attempts=70,
    on_max_attempts="pause",
)
