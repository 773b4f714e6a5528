"""Every id that a test or a comment cites is explained in docs/promises.md, and each one there is cited."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ID = re.compile(r"\b(?:C-\d{3}|R-\d{2}|I(?:[1-9]|10)|[Dd]esign \d\.\d)\b")
FOLDERS = ("durable", "tests", "benchmarks", "examples", "docs")


def ids(text: str) -> set[str]:
    return {id[0].upper() + id[1:] for id in ID.findall(text)}


def cited() -> set[str]:
    suffixes = ("py", "md", "c", "sql")
    files = [path for folder in FOLDERS for suffix in suffixes for path in (ROOT / folder).rglob(f"*.{suffix}")]
    return {id for path in (*files, ROOT / "README.md") if path.name != "promises.md" for id in ids(path.read_text())}


def listed() -> list[str]:
    lines = (ROOT / "docs" / "promises.md").read_text().splitlines()
    return [match[1] for line in lines if (match := re.match(rf"- ({ID.pattern}) \S", line))]


def test_every_promise_that_is_cited_is_explained_and_the_other_way_round() -> None:
    explained = listed()
    assert len(explained) == len(set(explained)), "one line an id"
    assert cited() - set(explained) == set(), "cited, and not explained in docs/promises.md"
    assert set(explained) - cited() == set(), "explained in docs/promises.md, and cited nowhere"
