"""What README.md and docs/*.md show as a program is run: each fenced `python` block alone in an empty folder, twice.

Both times it prints what it says: a comment after each `print(...)` is the line that this prints. A block that begins
with `# test_….py` is given to pytest. One is left out by the comment `<!-- not run -->` on the line above it (blank
lines may stand between).
"""

import ast
import io
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "<!-- not run -->"
#: An opening or closing fence: indentation, backticks or tildes, info string.
FENCE = re.compile(r"^(?P<indent>[ ]*)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(\.\d+)?")


class Block(NamedTuple):
    """A program, and the line on which it begins."""

    line: int
    code: str


def blocks(text: str) -> Iterator[Block]:
    """The blocks to run."""
    opened: re.Match[str] | None = None
    began, before, runs = 0, "", False
    code: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None:
            if fence is not None:
                opened, began, code = fence, number + 1, []
                runs = fence["info"].strip() == "python" and before != NOT_RUN
            before = line.strip() or before
        elif fence is not None and fence["fence"].startswith(opened["fence"]) and not fence["info"].strip():
            if runs:
                yield Block(began, textwrap.dedent("\n".join(code)) + "\n")
            opened, before = None, ""
        else:
            code.append(line)
    assert opened is None, f"line {began - 1}: this fence is never closed"


def says(code: str) -> Counter[str]:
    """The lines that a program says it prints: the comments of its prints."""
    printing = {
        node.end_lineno or node.lineno
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {one.start[0]: one.string.removeprefix("#").strip() for one in tokens if one.type == tokenize.COMMENT}
    silent = sorted(printing - comments.keys())
    assert not silent, f"say in a comment what these lines print: {silent}"
    return Counter(comments[line] for line in printing)


def lines_of(printed: str) -> Counter[str]:
    """What was printed, with every moment in it the same."""
    return Counter(MOMENT.sub("2026-11-29T17-45-00Z", line) for line in printed.splitlines())


#: Ours, and anyio's, which is always there.
PLUGINS = ["-p", "pytest_durable", "-p", "no:asyncio", "-p", "no:schemathesis", "-p", "no:cacheprovider"]
PROGRAMS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"))
]


@pytest.mark.process
@pytest.mark.parametrize("block", PROGRAMS)
def test_a_block_runs_as_it_stands_and_again_and_prints_what_it_says(block: Block, tmp_path: Path) -> None:
    if block.code.startswith("# test_"):
        name = block.code.split()[1]
        command = [sys.executable, "-m", "pytest", *PLUGINS, name]
        runs, expected = 1, None
    else:
        name = "program.py"
        command = [sys.executable, "-W", "always", name]
        runs, expected = 2, says(block.code)
    (tmp_path / name).write_text(block.code, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for _ in range(runs):
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, f"{block.code}\n{ended.stdout}{ended.stderr}"
        assert "Warning" not in ended.stderr, ended.stderr
        assert expected is None or lines_of(ended.stdout.replace(str(tmp_path), "/…")) == expected


def test_the_readme_shows_at_least_one_program() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if len(text.splitlines()) <= 40:
        pytest.skip("README.md is not written yet")
    assert list(blocks(text))


PAGE = """
# A page

```python
print("one")
```

```python title="not exactly python"
nonsense
```

```
plain text
```

<!-- not run -->

```python
nonsense
```

```python
print("two")
```

- in a list

  ~~~python
  if True:
      print("three ```")
  ~~~

````markdown
```python
nonsense
```
````
"""


def test_blocks_are_those_marked_python_and_not_excused() -> None:
    assert list(blocks(PAGE)) == [
        Block(5, 'print("one")\n'),
        Block(23, 'print("two")\n'),
        Block(29, 'if True:\n    print("three ```")\n'),
    ]


def test_a_fence_that_is_never_closed_is_found() -> None:
    with pytest.raises(AssertionError, match="line 2: this fence is never closed"):
        list(blocks("\n```python\nprint()\n"))


def test_a_print_has_to_say_what_it_prints() -> None:
    code = 'print("a",\n      "b")  # a b\nprint("c # d")  # c # d\nprinted = 1  # nothing\n'
    assert says(code) == Counter(["a b", "c # d"])
    with pytest.raises(AssertionError, match=r"say in a comment what these lines print: \[1\]"):
        says("print(1)\n")
