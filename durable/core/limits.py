"""How much is kept in memory, and how much is done at a time. Any number more may wait."""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers that only change how fast things go: with `TINY`, all results are the same."""

    #: How many commands one turn takes: so long, at most, does somebody wait who comes behind a burst.
    turn: int = 500
    #: Behind how many commands that no turn has taken yet a caller waits before it submits its own.
    door: int = 1000
    #: How many invocations that wait for a slot are in memory.
    ready: int = 512
    #: How many handlers that wait for other invocations stay in memory while those run in their slots. One that was
    #: handed much counts more than once (`Suspend.weight`).
    warm: int = 4096
    #: How many objects without an invocation in memory stay there, so that the next call of a busy key reads nothing.
    idle_keys: int = 1024
    #: Up to how many invocations in memory, those that wait for a key stay there too.
    pending: int = 4096
    #: Suspended invocations with many open entries stay in memory, up to so many entries of all of them.
    wide: int = 100_000
    #: How many ordinals are reserved at a time; a start skips at most this many.
    ordinals: int = 1_000_000
    #: How many invocations one turn of recovery takes.
    recovered: int = 500
    #: How many completed invocations one turn of the sweep forgets.
    cleaned: int = 100
    #: How many timers are in memory, and how many due ones are settled at one go.
    timers: int = 10_000
    due: int = 1000
    #: How many journals are read at the same time: a commit has to wait for them.
    journals: int = 32
    #: How many recorded outcomes are delivered before the event loop gets its turn, and for how many seconds: what a
    #: handler does between them takes time, too.
    replayed: int = 100
    replayed_s: float = 0.01
    #: How many steps of a handler begin in one round of the event loop: of those beside it, and of those in flows.
    begun: int = 100
    #: How many attempts may fail before others that fail have to wait until those failures are settled.
    failures: int = 50


#: For tests: every boundary is crossed by the smallest scenario.
TINY = Limits(
    turn=1, door=1, ready=1, warm=1, idle_keys=1, pending=1, wide=1, ordinals=1, recovered=1, cleaned=1, timers=1,
    due=1, journals=1, replayed=1, begun=1, failures=1,
)  # fmt: skip
