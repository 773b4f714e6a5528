"""A dry run says what the real one says, and changes nothing."""

import copy
from collections.abc import Callable

import pytest

from durable.core.commands import Cancel, Command, Kill, Pause, Purge, Restart, Resume
from durable.core.effects import Reply, Writes
from tests.core.support import Core, actions, id_of, replies
from tests.core.test_pause import STATUSES, brought_to

VERBS: dict[str, Callable[[str, bool], Command]] = {
    "cancel": lambda id, dry: Cancel(id, 1, dry),
    "kill": lambda id, dry: Kill(id, 1, dry),
    "pause": lambda id, dry: Pause(id, 1, dry),
    "resume": lambda id, dry: Resume(id, 1, dry),
    "restart": lambda id, dry: Restart(id, id_of(99), 0, 1, dry),
    "restart from an entry it has not": lambda id, dry: Restart(id, id_of(99), 7, 1, dry),
    "purge": lambda id, dry: Purge(id, False, 1, dry),
    "purge the journal": lambda id, dry: Purge(id, True, 1, dry),
}


@pytest.mark.parametrize("status", [*STATUSES, "nowhere"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_says_what_the_real_one_says_and_changes_nothing(verb: str, status: str) -> None:
    core = Core()
    id = id_of(9) if status == "nowhere" else brought_to(core, 1, status)
    before = copy.deepcopy(core.world.invocations)
    turn = core.settle(VERBS[verb](id, True))
    said = replies(turn)
    assert turn.writes == Writes(), "nothing is written"
    assert len(turn.actions) == len(actions(turn, Reply)), "nobody is told of it"
    assert core.world.invocations == before
    assert replies(core.settle(VERBS[verb](id, False))) == said
