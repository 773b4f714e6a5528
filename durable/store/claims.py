"""Ids that are damaged: written again where what determines them is sound, and their keys are taken in any case.

An idempotency key (of a workflow's run: its key) determines the id, so what is asked twice is found by its id. Where
that is damaged, two unique indexes keep the request from being accepted a second time.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from durable import log
from durable.core.ids import parse_stand_in_id
from durable.core.invocation import Flavor, Invocation, Submission
from durable.store.indexes import BY_ID, make_again
from durable.store.rows import FIXED, FIXED_NAMES, MOVING, invocation_of

_ID = FIXED_NAMES.index("id")
_SELECT = f"SELECT {FIXED}, {MOVING} FROM _invocations"
_BY_KEY = (
    f"{_SELECT} INDEXED BY invocations_of_claim"
    " WHERE idempotency_key = ? AND service = ? AND handler = ? AND coalesce(key, x'') = coalesce(?, x'')"
)
_BY_WORKFLOW = (
    f"{_SELECT} INDEXED BY invocations_of_workflow"
    " WHERE flavor = 'workflow' AND service = ? AND key = ? AND coalesce(idempotency_key, '') = ''"
)


def is_mended(row: Sequence[Any], invocation: Invocation) -> bool:
    """Whether the id that is stored is damaged, and the one that the invocation has is certainly its own."""
    return row[_ID] != invocation.id and parse_stand_in_id(invocation.id) is None


def mend(database: sqlite3.Connection, invocation: Invocation) -> None:
    """Write an invocation's own id again. Where that fails, the next who reads it tries again."""
    with suppress(sqlite3.Error):
        database.execute("UPDATE _invocations SET id = ? WHERE seq = ?", (invocation.id, invocation.seq))
        log.store.warning(
            "the id of invocation number %d was damaged: it is %s again",
            invocation.seq,
            invocation.id,
            about=log.About(invocation.id, invocation.submission.target, invocation.submission.key),
        )


def taken(database: sqlite3.Connection, path: str, created: Iterable[Invocation], damage: list[str]) -> str:
    """Why these cannot be accepted: one has a key that is taken by an invocation whose id is damaged. "" if none has.

    An id that can be mended is, and so is the index of the ids where it does not know one: then the same request is
    told of it, as soon as it is settled again. Adds to `damage` what it says of the index.
    """
    for new in created:
        for row in _with_key_of(database, new.submission):
            there = invocation_of(row)
            if is_mended(row, there):
                mend(database, there)
            elif there.id == new.id:
                damage.append(make_again(database, path, BY_ID))
            else:
                return (
                    f"{new.submission.target}: the invocation with this key is there already, and its id is damaged: "
                    f"it is listed as {there.id}. Kill and purge it to do it again, or restore a backup: "
                    "durable.restore(backup, path)"
                )
    return ""


def _with_key_of(database: sqlite3.Connection, asked: Submission) -> Sequence[Sequence[Any]]:
    try:
        if asked.idempotency_key is not None:
            by_key = (asked.idempotency_key, asked.service, asked.handler, asked.key)
            return database.execute(_BY_KEY, by_key).fetchall()
        if asked.flavor is Flavor.WORKFLOW:
            return database.execute(_BY_WORKFLOW, (asked.service, asked.key)).fetchall()
    except sqlite3.Error:  # that it was refused is known, and why it was
        pass
    return ()
