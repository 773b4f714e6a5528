"""The one door for change: apply commands, and the commands they cause, until none is left.

`advance` returns what it has to know before it can go on; the caller loads it, hands it to the world and calls again.
A command is applied whole or not yet, so nothing is ever half decided.
"""

from collections.abc import Callable
from typing import Any, get_args

from durable.core import commands as ask
from durable.core import record_commands as records
from durable.core.effects import Need
from durable.core.lifecycle import (
    cancel,
    control,
    damage,
    finish,
    forget,
    once,
    open_entry,
    pause,
    promise,
    record,
    restart,
    slots,
    submit,
    take,
    wake,
)
from durable.core.needs import need_invocation
from durable.core.turn import Turn
from durable.core.world import World

_APPLY: dict[type, Callable[[Turn, Any], None]] = {
    ask.Submit: submit.submit,
    ask.Record: record.record,
    ask.Finished: record.finished,
    ask.OpenEntry: open_entry.open_entry,
    ask.Finish: finish.finish,
    ask.Fail: finish.fail,
    ask.Suspend: finish.suspend,
    ask.Cool: finish.cool,
    ask.TimerFired: wake.timer_fired,
    ask.Notify: wake.notify,
    ask.KeyFree: wake.key_free,
    ask.CompleteEntry: wake.complete_entry,
    ask.SendSignal: wake.send_signal,
    ask.SettlePromise: promise.from_outside,
    ask.Attach: control.attach,
    ask.Cancel: cancel.cancel,
    ask.Kill: cancel.kill,
    ask.Pause: pause.pause,
    ask.Unloaded: pause.unloaded,
    ask.Resume: pause.resume,
    ask.Restart: restart.restart,
    ask.Purge: forget.purge,
    ask.Expire: forget.expire,
    ask.Recover: control.recover,
    ask.NoteDamage: damage.note_damage,
    ask.Recovered: control.recovered,
    ask.Trust: slots.trust,
    ask.Lend: slots.lend,
    ask.Configure: control.configure,
    ask.Declare: control.declare,
    records.Subscribe: take.subscribe,
    records.Unsubscribe: take.unsubscribe,
    records.ChangeSubscription: take.change,
    records.HoldSubscription: take.hold,
    records.Reposition: take.reposition,
    records.Begin: take.begin,
    records.Take: take.take,
    records.SetCluster: take.set_cluster,
}


def _needs_of_running(world: World, command: ask.Finish | ask.Fail, need: Need) -> None:
    """An ending invocation tells who listens; it is in memory, and so is its object."""
    if command.seq in world.invocations:
        need_invocation(world, need, command.seq)


_NEEDS: dict[type, Callable[[World, Any, Need], None]] = {
    ask.Submit: submit.needs,
    ask.OpenEntry: open_entry.needs,
    ask.Finish: _needs_of_running,
    ask.Fail: _needs_of_running,
    ask.TimerFired: wake.needs_seq,
    ask.Notify: wake.needs_seq,
    ask.KeyFree: wake.needs_seq,
    ask.CompleteEntry: wake.needs_id,
    ask.SendSignal: wake.needs_id,
    ask.SettlePromise: promise.needs,
    ask.Attach: control.needs_id,
    ask.Cancel: control.needs_id,
    ask.Kill: control.needs_id,
    ask.Pause: control.needs_id,
    ask.Resume: pause.needs_resume,
    ask.Restart: restart.needs,
    ask.Purge: forget.needs_purge,
    ask.Expire: forget.needs_expire,
    ask.Recover: control.needs_seq,
    ask.NoteDamage: control.needs_seq,
    records.Take: take.needs,
}


for _kind in get_args(once.Asked):
    _APPLY[_kind] = once.once(_APPLY[_kind])
    _NEEDS[_kind] = once.needs_once(_NEEDS.get(_kind))


def advance(turn: Turn) -> Need | None:
    """Apply commands until none is left, then hand out slots (None); or until something is needed from the store."""
    commands, world = turn.commands, turn.world
    while world.unnoted:
        commands.appendleft(damage.to_note(world.unnoted.pop()))
    need = Need()
    while True:
        if not commands:
            missing = slots.hand_out(turn)
            if missing is not None or not turn.told:
                return missing
            commands.extend(turn.told)
            turn.told.clear()
        command = commands[0]
        kind = type(command)
        needs = _NEEDS.get(kind)
        if needs is not None:
            needs(world, command, need)
            if need:
                for later in commands:
                    ask_ahead = _NEEDS.get(type(later))
                    if ask_ahead is not None:
                        ask_ahead(world, later, need)
                return need
        commands.popleft()
        _APPLY[kind](turn, command)
        if turn.told:
            commands.extendleft(reversed(turn.told))
            turn.told.clear()
