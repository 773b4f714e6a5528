"""The ingress of Restate's own server, with the same services, is asked what ours is asked.

Field by field, the answers are the same, but for what stands in `docs/ingress.md`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.admin.facts.differences import Difference, cell, differences, lines
from tests.admin.facts.sides import servers
from tests.ingress.facts.questions import Side, questions

TABLE = Path(__file__).parents[2] / "docs" / "ingress.md"


@pytest.mark.process
def test_both_answer_alike_but_for_what_the_table_says(tmp_path: Path) -> None:
    with servers(tmp_path, "tests.ingress.facts.theirs", "tests.ingress.facts.ours") as at:
        sides = Side(at.ingress), Side(at.ours)
        with ThreadPoolExecutor(2) as pool, sides[0].http, sides[1].http:
            found = list(dict.fromkeys(asked(sides, pool)))
    table = lines(TABLE)
    unknown = [one for one in found if not any(line.covers(one) for line in table)]
    untrue = [line for line in table if not any(line.covers(one) for one in found)]
    told = "\n".join(map(str, unknown))
    assert not unknown, f"mend these, or write them into docs/ingress.md with a reason:\n{told}"
    told = "\n".join(f"| {' | '.join(map(cell, line[:4]))} | {line.why} |" for line in untrue)
    assert not untrue, f"these lines of docs/ingress.md are no longer true:\n{told}"


def asked(sides: tuple[Side, Side], pool: ThreadPoolExecutor) -> Iterator[Difference]:
    """Ask both, one question after the other; yields every difference."""
    for name, ask in questions():
        yield from differences(name, *pool.map(ask, sides))
