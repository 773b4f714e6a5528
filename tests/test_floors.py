"""The house has floors, and imports go down: every file can be read after those it needs."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

HOUSE = Path(__file__).parent.parent / "durable"
#: From the ground up, a floor a line, its rooms in words. An import goes to a lower floor, or stays in its room.
FLOORS = """
errors log release
core.sealed
core.journal core.waiting core.ids core.duration core.reasons core.limits core.topics core.once
core.retry core.replay
core.invocation core.sources
core.alike
core.record_commands
core.commands
core.effects
core.world
core.turn core.needs
core.lifecycle
core.settle core.undo
core
codec encryption
serde
subclasses
outcomes
signature callbacks
service store
saga futures
operations combining
context
runtime
views telemetry
client kafka
api
remote
engine
web
testing admin ingress restate fastapi
remote.server serving
cli
__main__
.
"""
LEVELS = {room: level for level, floor in enumerate(FLOORS.split("\n")) for room in floor.split()}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    inside = module.removeprefix("durable").removeprefix(".")
    rooms = [room for room in LEVELS if f"{inside}.".startswith(f"{room}.")]
    assert rooms or not inside, f"{module} is in no room: give it a floor in {__file__}"
    return max(rooms, key=len, default=".")


def all_imports() -> dict[str, set[str]]:
    """What each module imports, wherever in the file and for whatever purpose."""
    files = {module_of(path): path for path in HOUSE.rglob("*.py")}
    found: dict[str, set[str]] = {module: set() for module in files}
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[module].update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: imports are written in full"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found[module].update(name if name in files else str(node.module) for name in names)
    return found


def imports() -> dict[str, set[str]]:
    """The same, within the house."""
    found = all_imports()
    return {module: needed & found.keys() for module, needed in found.items()}


def test_imports_go_to_lower_floors_or_stay_in_their_room() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, needed in imports().items()
        for imported in needed
        if (room := room_of(module)) != (other := room_of(imported)) and LEVELS[other] >= LEVELS[room]
    ]
    assert not wrong, wrong


def test_no_import_closes_a_circle() -> None:
    TopologicalSorter(imports()).prepare()  # raises CycleError, naming the circle


def test_what_decides_is_pure() -> None:
    """The core knows no clock, chance, event loop, file or log: asked again, it says the same."""
    impure = {"asyncio", "logging", "os", "random", "secrets", "sqlite3", "threading", "time", "durable.log"}
    wrong = [
        f"{module} imports {name}"
        for module, needed in all_imports().items()
        for name in needed
        if module.startswith("durable.core.") and (name in impure or name.split(".")[0] in impure)
    ]
    assert not wrong, wrong


def test_there_is_one_way_to_the_log() -> None:
    """Through `durable.log`, which survives whatever the user's log handlers do: `from durable import log`."""
    wrong = [module for module, needed in all_imports().items() if "logging" in needed and module != "durable.log"]
    assert not wrong, wrong


def test_each_file_stands_in_the_map_of_the_house() -> None:
    architecture = (HOUSE.parent / "docs" / "architecture.md").read_text()
    words = set(re.findall(r"\w+", architecture.split("```")[1]))
    files = {path.stem for path in HOUSE.rglob("*.py")} - {"__init__"}
    assert not files - words
