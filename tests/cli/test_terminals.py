"""On a pseudo-terminal: questions, bars, redrawing, colours."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.cli.program import make
from tests.cli.terminal import on_a_terminal
from tests.cli.typed import ESCAPES, typed

pytestmark = pytest.mark.process


def stopped(path: Path, count: int) -> None:
    async def begin() -> None:
        async with make(str(path)) as engine:
            await asyncio.gather(*(engine.send("Shop/greet", "x", delay="1h") for _ in range(count)))

    asyncio.run(begin())


def test_before_many_are_touched_somebody_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    stopped(path, 7)
    kill = ["invocations", "kill", "--db", str(path), "--service", "Shop"]
    first, second = (ESCAPES.sub("", one) for one in on_a_terminal([kill, kill], tmp_path, typed=b"n\ny\n"))
    for shown in (first, second):
        assert "7 invocations to kill:" in shown
        assert shown.count("Shop/greet  scheduled") == 5
        assert "… and 2 more" in shown
        assert "kill 7 invocations? [y/N]:" in shown
    assert "durable: nothing was done" in first and first.endswith("[1]\n")
    assert re.search(r"kill \S* ?━+ .*7/7", second), second
    assert second.count(" killed\n") == 7


def test_a_watched_list_is_redrawn_until_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    stopped(path, 1)
    watch = ["invocations", "list", "--watch", "--interval", "0.1", "--db", str(path)]
    [shown] = on_a_terminal([watch], tmp_path, interrupted_after=b"in 59m")
    assert ESCAPES.sub("", shown).count("scheduled") >= 1
    assert "Ctrl-C ends it" in shown
    assert "\x1b[" in shown
    assert not shown.endswith("]\n"), "Ctrl-C is how it ends: that is no failure"


def test_without_colour_where_none_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    stopped(path, 1)
    line = ["invocations", "list", "--db", str(path)]
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    [coloured] = on_a_terminal([line], tmp_path)
    [plain] = on_a_terminal([line], tmp_path, env={"NO_COLOR": "1"})
    assert colour.search(coloured) and not colour.search(plain)
    assert "\x1b" not in typed(*line).out


def test_a_question_that_nobody_answers_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    stopped(path, 2)
    kill = ["invocations", "kill", "--db", str(path), "--service", "Shop"]
    [shown] = on_a_terminal([kill], tmp_path, interrupted_after=b"[y/N]")
    assert "interrupted" in shown and shown.endswith("[130]\n")
    assert typed("services", "status", "--db", path, "--json").json == [{"service": "Shop", "scheduled": 2}]
