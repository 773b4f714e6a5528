"""What README.md and docs/*.md show as a program is run: each fenced `python` block, alone, in an empty folder.

A block is left out by the comment `<!-- not run -->` on the line above it (blank lines may stand between).
"""

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "<!-- not run -->"
#: An opening or closing fence: indentation, backticks or tildes, info string.
FENCE = re.compile(r"^(?P<indent>[ ]*)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")


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


@pytest.mark.process
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"))
    ],
)
def test_a_block_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.code, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-W", "always", program.name],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 0, f"{block.code}\n{ended.stdout}{ended.stderr}"
    assert "Warning" not in ended.stderr, ended.stderr


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
