"""What the path of a database means, and what people write instead by mistake."""

import os
import re

from durable.errors import UsageError

#: Keeps everything in memory.
MEMORY = ":memory:"
_URL = re.compile(r"(?i)([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)


def database_path(path: str | os.PathLike[str]) -> str:
    """The absolute path of a database file, or `:memory:`. `~` is the home directory.

    It is made absolute now, because the process may change its directory later. Raises `UsageError`, which says what
    to write instead.
    """
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise UsageError(
            f"the database is given by its path, such as 'app.db' or pathlib.Path('app.db'), not by {path!r}"
        ) from None
    if name == MEMORY:
        return MEMORY
    if not name:
        raise UsageError("the path of the database is empty: name a file, such as 'app.db', or ':memory:'")
    if "\0" in name:
        raise UsageError(f"{name!r}: the path of a file cannot contain the character NUL")
    _refuse_urls(name)
    if name.endswith(os.sep):
        raise UsageError(f"{name!r} names a directory: name a file in it, such as {os.path.join(name, 'app.db')!r}")
    return os.path.abspath(os.path.expanduser(name))


def _refuse_urls(name: str) -> None:
    """`sqlite:///x.db` is what SQLAlchemy takes, `file:x.db?mode=…` what SQLite does."""
    url = _URL.fullmatch(name)
    if url is not None:
        scheme, rest = url.groups()
        wanted = rest.partition("?")[0]
        if scheme.lower().startswith("sqlite"):  # the third slash only ends the (empty) name of a host
            wanted = wanted.removeprefix("/") or MEMORY
        raise UsageError(f"{name!r} is a URL; the engine takes a path: write {wanted or 'app.db'!r}")
    if name.lower().startswith("file:"):
        wanted, _, options = name[len("file:") :].partition("?")
        if "mode=memory" in options or wanted == MEMORY:
            wanted = MEMORY
        raise UsageError(
            f"{name!r} is a URL; the engine takes a path: write {wanted or 'app.db'!r} "
            f"(or {'./' + name!r} for a file of that very name)"
        )
