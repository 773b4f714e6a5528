"""Restate's own server, with the same services in the same states, is asked what an engine is asked.

Field by field, the answers are the same, but for what stands in `docs/differences.md`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.admin.facts import changes, printed, questions
from tests.admin.facts.differences import NOTHING, Difference, Line, cell, differences, fits, known, lines
from tests.admin.facts.sides import Side, both

#: What `state edit` has for an editor.
EDITOR = """#!/bin/sh
sed -i.before 's/7/8/' "$1"
"""


@pytest.mark.process
def test_both_servers_answer_alike_but_for_what_the_table_says(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    with both(tmp_path) as sides, ThreadPoolExecutor(2) as pool:
        found = list(dict.fromkeys(asked(sides, pool, str(editor))))
    table = lines()
    unknown = [one for one in found if not any(line.covers(one) for line in table)]
    untrue = [line for line in table if not any(line.covers(one) for one in found)]
    told = "\n".join(map(str, unknown))
    assert not unknown, f"mend these, or write them into docs/differences.md with a reason:\n{told}"
    told = "\n".join(f"| {' | '.join(map(cell, line[:4]))} | {line.why} |" for line in untrue)
    assert not untrue, f"these lines of docs/differences.md are no longer true:\n{told}"


def asked(sides: tuple[Side, Side], pool: ThreadPoolExecutor, editor: str) -> Iterator[Difference]:
    """Ask both, first what changes nothing; yields every difference."""

    def compare(several: Iterator[questions.Question]) -> Iterator[Difference]:
        for name, ask in several:
            theirs, ours = pool.map(ask, sides)
            yield from differences(
                name, *(known(one, side.names()) for one, side in zip((theirs, ours), sides, strict=True))
            )

    list(pool.map(questions.prepare, sides))
    yield from compare(questions.requests())
    yield from compare(questions.statements())
    yield from compare(questions.calls())
    list(pool.map(changes.prepare, sides))
    yield from compare(changes.verbs())
    yield from differences("afterwards", *changes.afterwards(sides))
    yield from compare(changes.refused())
    yield from compare(changes.reading())
    yield from compare(changes.options())
    yield from compare(changes.state(editor))
    yield from compare(changes.steering())


@pytest.mark.parametrize(
    ("theirs", "ours", "wanted"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {}, [("a", "1", NOTHING), ("", NOTHING, "{}")]),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": None}}, [("a.c", NOTHING, "null")]),
        ({"a": 1}, {"a": "1"}, [("a", "1", '"1"')]),
        ({"a": 1}, {"a": True}, [("a", "1", "True")]),
        ([{"name": "x", "y": 1}, {"name": "z"}], [{"name": "z"}, {"name": "x", "y": 2}], [("x.y", "1", "2")]),
        ([1, 2], [1, 3], [("1", "2", "3")]),
        (printed.Ordered(a=1, b=2), printed.Ordered(b=2, a=1), [("in order", "a, b", "b, a")]),
    ],
)
def test_every_kind_of_difference_is_seen(theirs: Any, ours: Any, wanted: list[tuple[str, str, str]]) -> None:
    assert list(differences("?", theirs, ours)) == [Difference("?", *one) for one in wanted]


def test_ids_and_times_read_the_same_on_both_sides_and_values_do_not() -> None:
    id, other = "inv_1" + "a" * 33, "inv_1" + "b" * 33
    told = known(
        {"of": [id, other], "at": "2026-11-29T20:57:42.017Z", "for": "500ms", "by": 1795989973174}, {id: "greeted"}
    )
    assert told == {"of": ["greeted", "INVOCATION"], "at": "TIME", "for": "500ms", "by": "TIME"}


def test_a_line_of_the_table_covers_what_it_says_and_nothing_else() -> None:
    line = Line("GET *", "a.*", "1", "*", "why")
    assert line.covers(Difference("GET /x", "a.b", "1", "2"))
    assert not line.covers(Difference("PUT /x", "a.b", "1", "2"))
    assert not line.covers(Difference("GET /x", "b", "1", "2"))
    assert not line.covers(Difference("GET /x", "a.b", "11", "2"))
    assert fits("[*].", "[2].")
    assert not fits("a.b", "axb")


def test_the_table_gives_a_reason_for_each_line(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    table.write_text(
        "| Asked | Where | There | Here | Why |\n|---|---|---|---|---|\n"
        "| `a` | `b \\| c` | \N{EN DASH} | `` `d` `` | so |\n"
    )
    assert lines(table) == [Line("a", "b | c", NOTHING, "`d`", "so")]
    assert lines()
    assert all(line.why for line in lines())


def test_what_the_command_line_prints_is_read_by_its_fields() -> None:
    told = """
           NAME  REVISION  METHODS
 [public]  Cart  1         hold
                           add
 [public]  Shop  2         sell

  \u276f [2026-11-29 20:57:42.433 +00:00] inv_18tkjcLKC8B10DIq2lJgtg997c9EltWeSD
     Target:  Greeter/boom
     Error:   [UNKNOWN]
              [500] boom

     \u251c\u2500\u2500\u2500\u2500 #0 [2026-11-29 20:57:42.433 +00:00] Command: Input
Showing 1/1 invocations.
"""
    assert printed.read(told) == {
        "rows": {
            "Cart": {"": "[public]", "NAME": "Cart", "REVISION": "1", "METHODS": "add, hold"},
            "Shop": {"": "[public]", "NAME": "Shop", "REVISION": "2", "METHODS": "sell"},
        },
        "invocations": {
            "inv_18tkjcLKC8B10DIq2lJgtg997c9EltWeSD": {"Target": "Greeter/boom", "Error": "[UNKNOWN]\n[500] boom"}
        },
        "journal": {"Command: Input": "#0"},
        "text": {"Showing 1/1 invocations.": "printed"},
        "order": "inv_18tkjcLKC8B10DIq2lJgtg997c9EltWeSD",
    }
