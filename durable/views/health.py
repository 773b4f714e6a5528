"""How an engine is doing: a few numbers, and what they mean. The limits are here, and in `docs/metrics.md`."""

from collections.abc import Iterator
from typing import Literal

import msgspec

Verdict = Literal["ok", "degraded", "failing"]

MIB = 1024 * 1024
#: A commit that takes longer than this in the median; one that is under way for so long.
COMMIT_SLOW_S, COMMIT_STUCK_S = 0.25, 10.0
#: How long one may be ready and wait for a slot.
READY_S = 60.0
#: How many commands may wait for a transaction.
QUEUED_MAX = 1000
#: For how long a handler may block the event loop, and for how long that counts.
BLOCKED_S, BLOCKED_WITHIN_S = 0.5, 60.0
#: For how long nobody may have the file, or whoever has it be silent.
SILENT_S = 5.0
#: What should be left on the disk, and what must be.
DISK_LOW, DISK_FULL = 1024 * MIB, 64 * MIB
#: How large the write-ahead log may become: a reader that never ends keeps it from being emptied.
WAL_MAX = 256 * MIB


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is doing. A field is None if nobody can know it."""

    #: failing: it does no work, or soon will not. degraded: somebody should look.
    verdict: Verdict = "ok"
    #: Why, in words; empty if all is well.
    reasons: tuple[str, ...] = ()
    #: holder, standby, or None if it is not running.
    role: str | None = None
    #: Why it has stopped by itself, or cannot be asked.
    failure: str | None = None
    #: On standby: how long the holder has not answered.
    holder_silent_s: float | None = None
    #: On standby: why it could not take over, and what would not go on if it did.
    take_over: tuple[str, ...] = ()
    #: The median and the longest commit of the last minute, in seconds.
    commit_s: float | None = None
    commit_s_max: float | None = None
    #: How long the current commit has been under way.
    committing_s: float | None = None
    #: How many commands wait for a transaction.
    queued: int | None = None
    #: How many invocations have a slot, wait for one, wait for their key, and are paused.
    running: int | None = None
    ready: int | None = None
    pending: int | None = None
    paused: int | None = None
    #: How long ago the oldest that waits for a slot was accepted, and the oldest that is paused.
    oldest_ready_s: float | None = None
    oldest_paused_s: float | None = None
    timers: int | None = None
    #: The longest time that the event loop stood still in the last minute.
    blocked_s: float | None = None
    #: In bytes.
    disk_free: int | None = None
    database_size: int | None = None
    wal_size: int | None = None
    #: What was found wrong with the file since the start.
    damage: tuple[str, ...] = ()
    #: Subscriptions that read nothing, and why.
    subscriptions: tuple[str, ...] = ()


def judged(facts: Health) -> Health:
    """The same, with the verdict and its reasons."""
    failing, degraded = tuple(_failing(facts)), tuple(_degraded(facts))
    verdict: Verdict = "failing" if failing else "degraded" if degraded else "ok"
    return msgspec.structs.replace(facts, verdict=verdict, reasons=failing + degraded)


def _failing(facts: Health) -> Iterator[str]:
    if facts.failure is not None:
        yield facts.failure
    elif facts.role is None:
        yield "the engine does not run"
    if (facts.holder_silent_s or 0) > SILENT_S:
        yield f"on standby, and whoever has the file has not answered for {facts.holder_silent_s:.0f} s"
    if (facts.committing_s or 0) > COMMIT_STUCK_S:
        yield f"a commit has been under way for {facts.committing_s:.1f} s: the disk does not answer"
    if facts.disk_free is not None and facts.disk_free < DISK_FULL:
        yield f"{facts.disk_free // MIB} MiB are left on the disk: a commit that finds none stops the engine"


def _degraded(facts: Health) -> Iterator[str]:
    for one in facts.take_over:
        yield f"on standby, and {one}"
    if facts.paused:
        are = "1 invocation is" if facts.paused == 1 else f"{facts.paused} invocations are"
        yield f"{are} paused: mend the cause, then engine.resume(id) or engine.resume_all(reason=...)"
    if (facts.commit_s or 0) > COMMIT_SLOW_S:
        yield f"a commit takes {facts.commit_s:.2f} s: the disk is slow"
    if (facts.oldest_ready_s or 0) > READY_S and facts.ready:
        yield (
            f"{facts.ready} wait for a slot, the oldest for up to {facts.oldest_ready_s:.0f} s: handlers take longer "
            "than new ones come, or max_concurrent_invocations is too small"
        )
    if (facts.queued or 0) > QUEUED_MAX:
        yield f"{facts.queued} commands wait for a transaction: more comes in than the disk takes"
    if (facts.blocked_s or 0) > BLOCKED_S:
        yield f"the event loop stood still for {facts.blocked_s:.1f} s: the log names who blocked it"
    if facts.disk_free is not None and DISK_FULL <= facts.disk_free < DISK_LOW:
        yield f"{facts.disk_free // MIB} MiB are left on the disk"
    if (facts.wal_size or 0) > WAL_MAX:
        yield (
            f"the write-ahead log has {(facts.wal_size or 0) // MIB} MiB: some program has the file open and reads "
            "for so long that it cannot be emptied"
        )
    for one in facts.damage:
        yield f"the file is damaged: {one}"
    for one in facts.subscriptions:
        yield f"a subscription reads nothing: {one}"
