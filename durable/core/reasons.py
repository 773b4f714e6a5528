"""Reasons to pause after a failed attempt at once, because no retry can help, but other code or an operator can.

Operators read them, and `engine.resume_all(reason=...)` takes them.
"""

from enum import StrEnum


class Reason(StrEnum):
    """A reason to pause an invocation at once, whatever its retry policy says."""

    #: A step or a handler has done its work, and what it returned cannot be stored.
    RESULT_NOT_STORABLE = "result-not-storable"
    #: An argument, a state value, a signal … cannot be stored.
    VALUE_NOT_STORABLE = "value-not-storable"
    #: The input does not fit the handler's annotation any more.
    INPUT_NOT_READABLE = "input-not-readable"
    #: A recorded result, a state value, a signal … does not fit the annotation it is read with.
    VALUE_NOT_READABLE = "value-not-readable"
    #: Something is larger than `max_value_size`.
    VALUE_TOO_LARGE = "value-too-large"
    #: Its handler, or one that it calls, is not registered.
    HANDLER_GONE = "handler-gone"
    #: The code asks for something else than the journal records.
    JOURNAL_MISMATCH = "journal-mismatch"
    #: The code uses the context in a way that cannot work.
    MISUSE = "misuse"
    #: The store refused what it asked for, and nothing of it was written.
    COMMIT_REFUSED = "commit-refused"
    #: Its stored rows cannot be read.
    DAMAGED = "damaged"
    #: It asked for a state value or a promise whose stored row cannot be read.
    READS_DAMAGED = "reads-damaged"
    #: The codec could not encode what was to be stored.
    NOT_ENCODABLE = "not-encodable"
    #: What it is stored as, or what it reads, is encoded with a key that the codec does not have.
    KEY_MISSING = "key-missing"


#: What to do about it, a sentence an operator can follow.
ADVICE: dict[str, str] = {
    Reason.RESULT_NOT_STORABLE: (
        "The work was done, but its result could not be stored. Deploy code whose result can be stored, then resume: "
        "the step runs again (a handler whose own result it was only ends again)."
    ),
    Reason.VALUE_NOT_STORABLE: "Deploy code that passes a value that can be stored, and resume it.",
    Reason.INPUT_NOT_READABLE: "Deploy a handler that can read the stored input, and resume it; or kill it.",
    Reason.VALUE_NOT_READABLE: "Deploy code whose annotation fits the stored value, and resume it; or kill it.",
    Reason.VALUE_TOO_LARGE: (
        "Raise max_value_size, or deploy code that keeps the value elsewhere and passes a reference, and resume it."
    ),
    Reason.HANDLER_GONE: "Add the handler to Engine(services=[...]) and resume it; or kill it.",
    Reason.JOURNAL_MISMATCH: (
        "Deploy the code that wrote this journal again, and resume it; or kill it, and then restart it as new. (A "
        "kill undoes nothing, and a restart does everything again, also the steps that were done.)"
    ),
    Reason.MISUSE: "Deploy code without the mistake that the error names, and resume it; or kill it.",
    Reason.COMMIT_REFUSED: "Remove what the error names, and resume it; or kill it.",
    Reason.DAMAGED: "Kill it, or restore a backup: durable.restore(backup, path).",
    Reason.READS_DAMAGED: (
        "Restore a backup: durable.restore(backup, path). Or kill it, and write the state anew: engine.patch_state."
    ),
    Reason.NOT_ENCODABLE: (
        "Cure what the codec complains about, and resume it: a step whose result could not be encoded runs again."
    ),
    Reason.KEY_MISSING: (
        "Nothing is lost. Start the engine with a codec that has the key that the error names, and resume it; or "
        "kill it."
    ),
}

#: What is added where its handler has not seen a cancel.
CANCEL_WAITS = (
    "A cancel waits for that: its handler is told of it, and can compensate, as soon as its code runs again. To give "
    "it up without compensation, kill it."
)


#: What one needs that was paused because it had no tries left, and one that an operator holds.
NO_TRIES_LEFT = "It has no tries left. Cure what the error names, and resume it; or cancel it, or kill it."
HELD = "An operator has paused it: resume it, and it goes on where it was."


def advice(reason: str, *, cancelling: bool, held: bool) -> str:
    """What a paused invocation needs. `held`: an operator has paused it."""
    text = ADVICE.get(reason, HELD if held else NO_TRIES_LEFT)
    return f"{text} {CANCEL_WAITS}" if reason in ADVICE and cancelling else text
