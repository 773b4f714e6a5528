"""What a user meets first: the names, what is written about them, and how long it takes to import them."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import durable

HOUSE = Path(durable.__file__).parent
#: None of these may come along with `import durable`.
OPTIONAL = [
    "aiokafka",
    "attr",
    "attrs",
    "cryptography",
    "h11",
    "httpx",
    "opentelemetry",
    "pydantic",
    "rich",
    "starlette",
    "uvicorn",
]
CLASSES = [name for name in durable.__all__ if inspect.isclass(getattr(durable, name))]


def test_all_is_exactly_the_public_names_in_order() -> None:
    named = {name: value for name, value in vars(durable).items() if not name.startswith("_")}
    public = {name for name, value in named.items() if not isinstance(value, ModuleType)}
    assert set(durable.__all__) == public
    assert durable.__all__ == sorted(durable.__all__)


def test_only_rooms_of_the_house_are_in_sight_besides() -> None:
    modules = {value.__name__ for value in vars(durable).values() if isinstance(value, ModuleType)}
    assert all(module.startswith("durable.") for module in modules)


@pytest.mark.parametrize("name", durable.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(durable, name)
    if name != "Duration":  # a type alias has no docstring of its own
        assert inspect.getdoc(value)
    if inspect.isclass(value) and issubclass(value, BaseException):
        assert value.__doc__, "an error says itself what it means"


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_method_is_documented(name: str) -> None:
    cls = getattr(durable, name)
    members = {
        attribute: value
        for base in cls.__mro__
        if base.__module__.startswith("durable")
        for attribute, value in vars(base).items()
        if not attribute.startswith("_") and (inspect.isroutine(value) or isinstance(value, property))
    }
    undocumented = [attribute for attribute, value in members.items() if not inspect.getdoc(value)]
    assert not undocumented


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_method_is_annotated(name: str) -> None:
    cls = getattr(durable, name)
    for base in cls.__mro__:
        if not base.__module__.startswith("durable"):
            continue
        for attribute, value in vars(base).items():
            if not attribute.startswith("_") and inspect.isfunction(value):
                signature = inspect.signature(value)
                assert signature.return_annotation is not inspect.Signature.empty, f"{base.__name__}.{attribute}"
                named = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
                bare = [parameter.name for parameter in named if parameter.annotation is inspect.Parameter.empty]
                assert not bare, f"{base.__name__}.{attribute}"


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    import durable.errors

    drawn = (durable.errors.__doc__ or "").split()
    for name in durable.errors.__all__:
        assert name in drawn
        assert getattr(durable, name) is getattr(durable.errors, name)


IMPORT = """
import sys, time
began = time.process_time()
import durable
print(time.process_time() - began, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def seconds_of(code: str) -> tuple[float, list[str]]:
    # compiled once, as everywhere: the first of several writes what the others read
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    took, *modules = done.stdout.split()
    return float(took), modules


def test_the_import_is_quick_and_pulls_nothing_optional() -> None:
    """150 ms; on a machine that does other things meanwhile, 3.5 times what the packages below take."""
    ours, needed = [], []
    for _ in range(5):
        took, modules = seconds_of(IMPORT)
        assert "msgspec" in modules
        assert not set(OPTIONAL) & set(modules)
        ours.append(took)
        needed.append(
            seconds_of(IMPORT.replace("import durable", "import anyio.to_thread, asyncio, msgspec, sqlite3"))[0]
        )
    assert min(ours) <= max(0.150, 3.5 * min(needed)), (ours, needed)


def test_large_files_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in HOUSE.rglob("*.py")}
    with capsys.disabled():
        for path, length in sorted(lengths.items(), key=lambda one: -one[1]):
            if length > 500:
                print(f"\n{path.relative_to(HOUSE.parent)}: {length} lines", end="")  # noqa: T201
