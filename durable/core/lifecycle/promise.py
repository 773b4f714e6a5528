"""Settle a workflow's promise, once."""

from durable.core.commands import Notify, SettlePromise
from durable.core.effects import Answer, Need
from durable.core.journal import Outcome
from durable.core.needs import need_run, need_topic
from durable.core.topics import promise_topic
from durable.core.turn import Turn
from durable.core.world import World


def needs(world: World, command: SettlePromise, need: Need) -> None:
    """The promise, and who waits for it."""
    need_run(world, need, command.service, command.key)
    need_topic(world, need, promise_topic(command.service, command.key, command.name))


def from_outside(turn: Turn, command: SettlePromise) -> None:
    """Settle it and say whether this was the first time. If its stored row is damaged, nobody can tell."""
    turn.renew(command.service, command.key)
    cause = turn.world.keys[command.service, command.key].promise_damage(command.name)
    if cause is not None:
        turn.reply(command.token, Answer.DAMAGED, cause=cause)
        return
    first = settle_promise(turn, command.service, command.key, command.name, command.outcome)
    turn.reply(command.token, Answer.DONE if first else Answer.CONFLICT)


def settle_promise(turn: Turn, service: str, key: str, name: str, outcome: Outcome) -> bool:
    """Store the outcome and tell everybody who waits; False if it was settled before."""
    promises = turn.world.keys[service, key].promises
    if name in promises:
        return False
    promises[name] = outcome
    turn.writes.promises[service, key, name] = outcome
    topic = promise_topic(service, key, name)
    for seq, entry in turn.take_listeners(topic):
        turn.tell(Notify(seq, entry, outcome, topic))
    return True
