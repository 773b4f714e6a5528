"""What the path of a database means, and what people write instead by mistake."""

import os
import re
import stat

from durable.errors import StorageReadOnlyError, UsageError
from durable.store.disk import JOURNAL, SHM, WAL

#: Keeps everything in memory.
MEMORY = ":memory:"
_KINDS = (
    (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a named pipe (FIFO)"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
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


def unlike_a_file(path: str) -> str:
    """What is wrong with what a path names; "" for a regular file, and for what is not there or cannot be seen."""
    kind = _kind(path)
    if kind == "a directory":
        return f"{path} is a directory: the engine needs the path of a file in it"
    return kind and f"{path} is {kind}: the engine needs a regular file, which it can keep"


def check_files(path: str) -> None:
    """Raise `StorageReadOnlyError` if a database, or what SQLite keeps beside it, is there and is no regular file.

    To be asked before any of them is opened: who opens a named pipe waits for its other end.
    """
    if wrong := unlike_a_file(path):
        raise StorageReadOnlyError(wrong)
    real = os.path.realpath(path)
    for place in (real + WAL, real + JOURNAL, real + SHM):
        if kind := _kind(place):
            raise StorageReadOnlyError(f"{place} is {kind}: SQLite keeps a part of {path} under that name; remove it")


def _kind(path: str) -> str:
    """What there is instead of a regular file, if there is something."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    return "" if stat.S_ISREG(mode) else next((name for is_one, name in _KINDS if is_one(mode)), "no regular file")


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
