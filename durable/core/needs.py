"""What a command touches, and so needs in memory before it is settled.

Each function adds to a `Need` what the world lacks. Some of it shows only once the rest is loaded, so they are called
again after each load, until nothing is missing.
"""

from durable.core.effects import Need
from durable.core.invocation import Flavor, Invocation, Status, Submission, run_id, visits_a_workflow
from durable.core.topics import output_topic
from durable.core.world import World


def need_invocation(world: World, need: Need, seq: int) -> None:
    """Ask for an invocation, and for the object it runs on once the invocation is known."""
    invocation = world.invocations.get(seq)
    if invocation is not None:
        need_surroundings(world, need, invocation)
    elif seq not in world.absent:
        need.seqs.add(seq)


def need_id(world: World, need: Need, id: str) -> None:
    """The same, by public id."""
    invocation = world.find(id)
    if invocation is not None:
        need_surroundings(world, need, invocation)
    elif id not in world.absent:
        need.ids.add(id)


def need_surroundings(world: World, need: Need, invocation: Invocation) -> None:
    """Ask for what starting, completing or forgetting an invocation touches: its object, who listens to it."""
    submission = invocation.submission
    need_object(world, need, submission)
    if invocation.listened:
        need_topic(world, need, output_topic(invocation.id))
    if submission.key is None:
        return
    if visits_a_workflow(submission):
        need_run(world, need, submission.service, submission.key)
    elif submission.flavor is Flavor.WORKFLOW and (
        invocation.status is Status.COMPLETED or invocation.damaged or submission.completion_retention_ms <= 0
    ):  # it may be forgotten
        key = (submission.service, submission.key)
        if key not in world.waiting:
            need.waiting.add(key)


def need_run(world: World, need: Need, service: str, key: str) -> None:
    """Ask for a workflow's run on a key: whether it is over decides whose state and promises those are."""
    if (service, key) not in world.keys:
        need.keys.add((service, key))
    need_id(world, need, run_id(service, key, world.id_span))


def need_object(world: World, need: Need, submission: Submission) -> None:
    """Ask for the object a submission runs on."""
    if submission.key is not None and (submission.service, submission.key) not in world.keys:
        need.keys.add((submission.service, submission.key))


def need_journal(world: World, need: Need, seq: int) -> None:
    """Ask for a whole journal."""
    if seq not in world.journals and seq not in world.unreadable:
        need.journals.add(seq)


def need_topic(world: World, need: Need, topic: str) -> None:
    """Ask who listens to a topic."""
    if topic not in world.topics:
        need.topics.add(topic)
