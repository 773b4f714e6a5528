"""Accept an invocation, or find the one its idempotency key already names."""

from durable.core.commands import Notify, Submit
from durable.core.effects import Answer, KeyReused, Need
from durable.core.invocation import (
    Caller,
    Flavor,
    Invocation,
    Open,
    Status,
    Submission,
    already_started,
    visits_a_workflow,
)
from durable.core.journal import Failure, Kind
from durable.core.needs import need_id, need_object, need_run
from durable.core.topics import output_topic
from durable.core.turn import Turn
from durable.core.world import World

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_ACCEPTED, _PENDING = Answer.ACCEPTED, Status.PENDING
#: What to do where a key is refused that was used for something else.
OTHERWISE = "use another key, or ask for the first one's result by its id"


def needs(world: World, command: Submit, need: Need) -> None:
    """A claimed id may exist already; a key has a queue."""
    submission = command.submission
    if command.repeated or is_claimed(submission):
        need_id(world, need, submission.id)
    need_key(world, submission, need)


def need_key(world: World, submission: Submission, need: Need) -> None:
    """Ask for what is on the key of one that begins."""
    if submission.key is None:
        return
    need_object(world, need, submission)
    if visits_a_workflow(submission):
        need_run(world, need, submission.service, submission.key)


def submit(turn: Turn, command: Submit) -> None:
    """Start it, queue it for its key, schedule it, or join the one that is there."""
    submission = command.submission
    if command.repeated or is_claimed(submission):
        existing = turn.world.find(submission.id)
        if existing is not None and not existing.expired(turn.now):
            join(turn, command, existing)
            return
        if existing is not None:
            turn.forget(existing)
    if submission.due_at is not None and submission.due_at > turn.now:
        invocation = turn.create(submission, Status.SCHEDULED)
        invocation.due_at = submission.due_at
        turn.add_timer(submission.due_at, invocation.seq, 0)
    else:
        invocation = begin(turn, submission)
    turn.reply(command.token, _ACCEPTED, invocation)


def begin(turn: Turn, submission: Submission) -> Invocation:
    """A new invocation, which starts, or waits for its key."""
    invocation = turn.create(submission, _PENDING)
    if turn.enqueue(invocation):
        turn.start(invocation)
    elif submission.caller is not None and submission.caller.waits:
        turn.may_deadlock(invocation)
    return invocation


def join(turn: Turn, command: Submit, existing: Invocation) -> None:
    """A repeated request: its caller gets the outcome of the first."""
    caller, again = command.submission.caller, command.again
    said = "" if again is None else again.said(existing.id, existing.submission.input)
    refused = again is not None and again.refuses and bool(said)
    if said:
        turn.actions.append(KeyReused(command.submission, said, refused))
    if caller is None or not caller.waits:
        turn.reply(command.token, Answer.PREVIOUSLY_ACCEPTED, existing)
    elif command.submission.flavor is Flavor.WORKFLOW:
        failure = already_started(command.submission.target)
        turn.tell(Notify(caller.seq, caller.entry, failure.outcome(), command.submission.id))
    elif refused:
        failure = Failure(f"{said}: {OTHERWISE}", 409)
        turn.tell(Notify(caller.seq, caller.entry, failure.outcome(), command.submission.id))
    elif existing.outcome is not None:
        turn.tell(Notify(caller.seq, caller.entry, existing.outcome, command.submission.id))
    else:
        follow(turn, caller, existing)


def follow(turn: Turn, caller: Caller, existing: Invocation) -> None:
    """A call that joined: the other invocation is no child of its caller, which waits as if it were attached."""
    topic = output_topic(existing.id)
    waiting = turn.world.invocations[caller.seq]
    waiting.open[caller.entry] = Open(Kind.ATTACH, topic)
    turn.amend(caller.seq, caller.entry, topic)
    turn.listen(topic, caller.seq, caller.entry)
    existing.listened = True
    turn.touch(existing)
    turn.may_deadlock(existing)


def is_claimed(submission: Submission) -> bool:
    """Whether the id is derived from an idempotency key or a workflow's key, and so may exist already."""
    if submission.key is None:
        return submission.idempotency_key is not None
    return submission.idempotency_key is not None or submission.flavor is Flavor.WORKFLOW
