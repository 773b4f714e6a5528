"""What is named as MODULE:ATTRIBUTE: an engine to serve, a codec."""

import importlib
import os
import sys
from typing import Any, TypeVar

from durable.cli.exits import Failed, usage

T = TypeVar("T")


def named(target: str, kind: type[T], what: str, example: str) -> T:
    """A `kind` that a module has, or that a function of it without arguments makes. Raises `Failed`.

    `what` it is called, with its article: "an Engine".
    """
    name, colon, attribute = target.partition(":")
    if not colon or not name or not attribute:
        raise usage(f"{target!r}: expected MODULE:{what.split()[-1].upper()}, such as {example}")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise Failed(f"{name} cannot be imported: {error}") from None
        raise usage(f"there is no module {name} here ({os.getcwd()})") from None
    except (Exception, SystemExit) as error:
        raise Failed(f"{name} cannot be imported: {type(error).__name__}: {error}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise usage(f"{name} has no {attribute}")
        found = getattr(found, part)
    if (not isinstance(found, kind) or isinstance(found, type)) and callable(found):
        try:
            found = found()
        except Exception as error:
            made = f"no {what.split()[-1].lower()}"
            raise Failed(f"{target}() made {made}: {type(error).__name__}: {error}") from None
    if not isinstance(found, kind):
        raise usage(f"{target} is no {what.split()[-1]}, and no function that makes one, but {type(found).__name__}")
    return found
