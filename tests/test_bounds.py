"""The oldest versions that are declared are the oldest that are tested: `.ci/run` installs `.ci/oldest.txt`."""

import re
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENT = re.compile(r"(?P<name>[a-z0-9-]+)>=(?P<oldest>[0-9]+(\.[0-9]+)*)")


def declared() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    found = {requirement: REQUIREMENT.fullmatch(requirement) for requirement in requirements}
    assert all(found.values()), "each requirement has a lower bound and nothing else: name>=1.2"
    return {match["name"]: match["oldest"] for match in found.values() if match is not None}


def test_what_is_declared_as_oldest_is_what_ci_installs() -> None:
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned == declared(), "write the bounds of pyproject.toml into .ci/oldest.txt as name==version"
    assert "--constraint .ci/oldest.txt" in (ROOT / ".ci" / "run").read_text()


def test_the_oldest_python_is_declared_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = project["project"]["requires-python"].removeprefix(">=")
    assert project["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert f"Programming Language :: Python :: {oldest}" in project["project"]["classifiers"]
