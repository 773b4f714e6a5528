"""Where an engine is found: beside its file, at a URL, or nowhere, and then what its file says."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from pathlib import Path

import msgspec

from durable.cli.exits import Failed, unreachable, usage
from durable.cli.naming import named
from durable.cli.sessions import InProcess, Remote, Session
from durable.codec import Codec
from durable.engine.resting import RestingEngine
from durable.errors import EngineLockedError, EngineUnreachableError, KeyMissingError, StorageError, UsageError
from durable.remote import wire
from durable.store.paths import MEMORY, database_path, unlike_a_file

#: How long an engine beside its file may take to answer at all.
PATIENCE_S = 10.0
ADMIN_URL, INGRESS_URL = "http://127.0.0.1:9070", "http://127.0.0.1:8080"


class Need(Enum):
    """What a command needs of the place where it works."""

    #: Nothing: it opens what it needs itself.
    NOTHING = "nothing"
    #: It only looks: a stopped file will do, and stays as it is.
    READ = "read"
    #: It changes what is stored: a stopped file is locked for that.
    CHANGE = "change"
    #: Code has to run, or to be known.
    ENGINE = "engine"


class Where(msgspec.Struct, frozen=True):
    """What was typed, or is in the environment."""

    db: str | None = None
    admin_url: str | None = None
    ingress_url: str | None = None
    token: str | None = None
    #: `MODULE:CODEC`, for a stopped file.
    codec: str | None = None


class Place(msgspec.Struct, frozen=True, eq=False):
    """Whom to ask."""

    admin: Session
    ingress: Session
    #: What people call it.
    name: str
    #: Whether nothing runs there.
    stopped: bool = False


def token_of(file: str | None) -> str | None:
    """The bearer token: from a file, or from DURABLE_TOKEN."""
    if file is None:
        return os.environ.get("DURABLE_TOKEN") or None
    try:
        token = Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"--token-file {file} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not token:
        raise usage(f"--token-file {file} is empty")
    return token


def file_of(db: str, what: str = "--db") -> str:
    """The path of a database file that was named. Raises `Failed`."""
    try:
        path = database_path(db)
    except UsageError as error:
        raise usage(f"{what}: {error}") from None
    if path == MEMORY:
        raise usage(f"{what}: ':memory:' is in the memory of its engine: reach that one with --admin URL")
    if not os.path.exists(path):
        raise unreachable(f"there is no file {path}")
    if wrong := unlike_a_file(path):
        raise unreachable(wrong)
    return path


@asynccontextmanager
async def reach(where: Where, need: Need) -> AsyncIterator[Place]:
    """Whom to ask, for as long as that takes. Raises `Failed`."""
    async with AsyncExitStack() as opened:
        if where.db is None:
            yield await _at_urls(where, opened)
            return
        path = file_of(where.db)
        nobody = await _beside(path, opened)
        if isinstance(nobody, Place):
            yield nobody
        elif need is Need.ENGINE:
            raise unreachable(nobody)
        else:
            from durable import admin  # only where it is wanted: each TAB in a shell starts this program
            from durable.ingress.app import create_local_app
            from durable.ingress.policy import Limits

            async with _resting(path, need, nobody, where.codec) as engine:
                operating, invoking = admin.create_app(engine), create_local_app(engine, Limits())
                yield Place(InProcess(operating), InProcess(invoking), path, stopped=True)


async def _at_urls(where: Where, opened: AsyncExitStack) -> Place:
    urls = (where.admin_url or ADMIN_URL, where.ingress_url or INGRESS_URL)
    sessions = []
    for url in urls:
        if not url.lower().startswith(("http://", "https://")):
            raise usage(f"{url!r} is no URL, such as {ADMIN_URL}")
        try:
            session = wire.Session(wire.place_of(url), token=where.token)
        except UsageError as error:
            raise usage(str(error)) from None
        sessions.append(Remote(await opened.enter_async_context(session)))
    return Place(sessions[0], sessions[1], urls[0])


async def _beside(path: str, opened: AsyncExitStack) -> Place | str:
    """The engine that runs on a file, or why there is none to be asked."""
    session = await opened.enter_async_context(wire.Session(wire.place_of(path)))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await session.request("GET", "/admin/version")
    except EngineUnreachableError as error:
        return str(error)
    except TimeoutError:
        raise unreachable(
            f"the engine of {path} has not answered within {PATIENCE_S:g} s: something may block its event loop, and "
            "the log of its process says what"
        ) from None
    return Place(Remote(session, "/admin"), Remote(session, "/ingress"), path)


def codec_named(target: str | None) -> Codec | None:
    """The codec that was named. Raises `Failed`."""
    if target is None:
        return None
    return named(target, Codec, "a Codec", "shop.main:codec")  # type: ignore[type-abstract]


def keys_missing(path: str, error: KeyMissingError) -> str:
    """What to do about values that cannot be decoded."""
    keys = ", ".join(map(repr, error.key_ids))
    return (
        f"the values in {path} are encoded, with the key {keys}: name a codec that has it, with --codec MODULE:CODEC"
    )


@asynccontextmanager
async def _resting(path: str, need: Need, nobody: str, codec: str | None) -> AsyncIterator[RestingEngine]:
    """An engine that runs nothing, on a file that no engine has."""
    engine = RestingEngine(path, changes=need is Need.CHANGE, codec=codec_named(codec))
    try:
        await engine.start()
    except KeyMissingError as error:
        raise unreachable(keys_missing(path, error)) from None
    except EngineLockedError as error:
        raise unreachable(f"{error} It cannot be asked either: {nobody}") from None
    except StorageError as error:
        raise unreachable(str(error)) from None
    try:
        yield engine
    finally:
        await engine.close()
    if engine.failure is not None:
        raise Failed(str(engine.failure))
