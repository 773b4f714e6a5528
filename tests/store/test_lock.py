"""One engine per file, whatever happens beside it."""

import asyncio
import fcntl
import gc
import multiprocessing
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    EngineLockedError,
    EngineNotRunningError,
    StorageBusyError,
    StorageReadOnlyError,
    handler,
)
from durable.core.effects import Writes
from durable.store.lock import FileLock
from durable.store.sqlite import SqliteStore
from tests.store.support import opened, play, program

SOMETHING = Writes(settings={"Shop": "{}"})

#: Tries to open a store in another process, and says how that went.
ANOTHER = """
import asyncio, sys
from durable.store.sqlite import SqliteStore
async def main():
    store = SqliteStore(sys.argv[1])
    try:
        await store.open()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    else:
        print("opened", flush=True)
        sys.stdin.read()
        await store.close()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durable.db"


def another(path: Path) -> str:
    """What a store in another process says to this file."""
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER, str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def remove_everything_else(path: Path) -> None:
    for file in path.parent.iterdir():
        if not file.name.startswith("durable.db") or file.name.endswith(".lock"):
            file.unlink()


def copy_the_folder(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.with_name("copy"))


def read_the_file(path: Path) -> None:
    path.read_bytes()


def lock_and_unlock_it(path: Path) -> None:
    """As another library in this process might."""
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_SH, 100)


def look_with_sqlite(path: Path) -> None:
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM settings").fetchone() == (1,)
    database.close()


@pytest.mark.process
@pytest.mark.parametrize(
    "beside",
    [remove_everything_else, copy_the_folder, read_the_file, lock_and_unlock_it, look_with_sqlite],
    ids=lambda beside: str(beside.__name__),
)
def test_nothing_done_beside_it_lets_a_second_engine_in(path: Path, beside: Callable[[Path], None]) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(SOMETHING)
            beside(path)
            refused = another(path)
            assert refused.startswith("EngineLockedError"), refused
            assert f"pid {os.getpid()}" in refused
            with pytest.raises(EngineLockedError, match="this process"):
                await SqliteStore(path).open()
            await store.commit(SOMETHING)

    play(story)
    assert sorted(file.name for file in path.parent.iterdir()) == ["durable.db"]
    assert another(path) == "opened"


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_is_the_same_file(path: Path, tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    other = tmp_path / "other.db"

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            link(path, other)
            with pytest.raises(EngineLockedError):
                await SqliteStore(other).open()
            assert another(other).startswith("EngineLockedError")
            await store.commit(SOMETHING)
        async with opened(SqliteStore(other)) as (_, where):
            assert where.settings == {"Shop": "{}"}
            with pytest.raises(EngineLockedError):
                await SqliteStore(path).open()

    play(story)


async def there_is(wanted: tuple[object, int]) -> None:
    """Wait until so many descriptors and threads are there: one that has answered may be on its way out."""
    async with asyncio.timeout(30):
        while (descriptors(), threading.active_count()) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_refused_start_leaves_nothing_open(path: Path) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            before = descriptors(), threading.active_count()
            for _ in range(5):
                with pytest.raises(EngineLockedError):
                    await SqliteStore(path).open()
            await there_is(before)
            await store.commit(SOMETHING)

    play(story)


def test_a_start_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    """Wherever the cancel comes."""

    async def story() -> None:
        before = descriptors(), threading.active_count()
        for delay in (0, 0, 0.001, 0.002, 0.004, 0.008, 0.016):
            store = SqliteStore(path)
            opening = asyncio.create_task(store.open())
            await asyncio.sleep(delay)
            opening.cancel()
            await asyncio.wait([opening])
            await store.close()
            await there_is(before)
        async with opened(SqliteStore(path)) as (_, where):
            assert where.next_seq == 1

    play(story)


# ---- a SQLite connection of somebody else in this process ----


def locks_on(path: Path) -> int:
    """How many bytes of the file SQLite has locked, seen from another process."""
    script = (
        "import fcntl, struct, sys\n"
        "with open(sys.argv[1], 'r+b') as file:\n"
        "    told = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0x40000000, 512, 0))\n"
        "    print(int(struct.unpack('hhqqi4x', told)[0] != fcntl.F_UNLCK))"
    )
    return int(subprocess.check_output([sys.executable, "-c", script, str(path)]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads struct flock as Linux has it")
def test_a_connection_of_the_embedding_program_keeps_its_locks_when_the_engine_closes(path: Path) -> None:
    """Closing a descriptor drops all POSIX locks of the process on the file: those of any other connection, too."""
    assert struct.calcsize("hhqqi4x") == 32

    async def story() -> None:
        before = descriptors()
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(SOMETHING)
            theirs = sqlite3.connect(path, isolation_level=None)
            theirs.execute("BEGIN")
            theirs.execute("SELECT * FROM settings").fetchall()
            with pytest.raises(EngineLockedError):
                await SqliteStore(path).open()
        assert locks_on(path)
        async with opened(SqliteStore(path)):
            pass
        assert locks_on(path)
        assert another(path) == "opened"
        theirs.execute("COMMIT")
        theirs.close()
        async with opened(SqliteStore(path)):
            pass
        assert descriptors() == before, "what could not be closed then is closed now"

    play(story)


# ---- forks ----


def held(path: Path) -> FileLock:
    lock = FileLock(str(path))
    lock.acquire()
    return lock


@pytest.mark.process
@pytest.mark.parametrize("how", ["fork", "multiprocessing", "subprocess"])
def test_a_child_that_outlives_its_parent_does_not_keep_the_file(path: Path, how: str) -> None:
    """The parent is killed; soon a new engine has the file."""
    with program(HAS_A_CHILD, path, how) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert another(path).startswith("EngineLockedError")
            parent.kill()
            killed = time.monotonic()
            while (said := another(path)) != "opened":
                assert time.monotonic() - killed < 30, said
            os.kill(child, 0)  # it is there still
        finally:
            os.kill(child, signal.SIGKILL)


HAS_A_CHILD = """
import asyncio, multiprocessing, os, subprocess, sys, time
from durable.store.sqlite import SqliteStore
async def main():
    await SqliteStore(sys.argv[1]).open()
    print("open", flush=True)
    if sys.argv[2] == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    elif sys.argv[2] == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        child = process.pid
    else:
        child = subprocess.Popen(["sleep", "60"], close_fds=False).pid
    print(child, flush=True)
    time.sleep(60)
asyncio.run(main())
"""


@pytest.mark.process
def test_a_child_that_ends_takes_nothing_from_its_parent(path: Path) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            child = multiprocessing.get_context("fork").Process(target=gc.collect)
            child.start()
            child.join(10)
            assert child.exitcode == 0
            assert another(path).startswith("EngineLockedError")
            await store.commit(SOMETHING)

    play(story)


@pytest.mark.process
def test_the_lock_is_free_at_once_when_its_process_is_killed(path: Path) -> None:
    with program(ANOTHER, path) as holder:
        with pytest.raises(EngineLockedError, match=f"pid {holder.pid}"):
            held(path)
        holder.kill()
        holder.wait(10)
        held(path).release()


@pytest.mark.process
def test_a_program_that_locks_the_whole_file_is_told_from_an_engine(path: Path) -> None:
    path.touch()
    text = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'r+b')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\nsys.stdin.read()"
    )
    with program(text, path) as other, pytest.raises(StorageBusyError, match=f"another program .pid {other.pid}"):
        held(path)
    held(path).release()


# ---- left without a close ----


def test_a_store_whose_event_loop_has_ended_makes_room_for_the_next(path: Path) -> None:
    """The engine was not closed: the next one of this process takes its place."""

    async def leave() -> None:
        store = SqliteStore(path)
        left.append(store)
        await store.open()
        await store.commit(SOMETHING)

    async def again() -> None:
        async with opened(SqliteStore(path)) as (store, where):
            assert where.settings == {"Shop": "{}"}
            await store.commit(Writes(settings={"Mail": "{}"}))

    left: list[SqliteStore] = []
    asyncio.run(leave())
    asyncio.run(again())


def test_a_store_whose_event_loop_has_ended_lets_go_by_itself(path: Path) -> None:
    left = SqliteStore(path)
    asyncio.run(left.open())
    ended = time.monotonic()
    while another(path) != "opened":
        assert time.monotonic() - ended < 60


def test_a_store_that_is_abandoned_is_let_go_at_once_and_writes_nothing_more(path: Path) -> None:
    async def story() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.commit(SOMETHING)
        store.abandon()
        store.abandon()
        with pytest.raises(EngineNotRunningError):
            await store.journal(1)
        async with opened(SqliteStore(path)) as (_, where):
            assert where.settings == {"Shop": "{}"}
        await store.close()
        async with opened(store):  # and the same store can be opened again
            await store.commit(SOMETHING)

    play(story)


@handler(service="Hello")
async def hello(ctx: Context) -> None: ...


@pytest.mark.parametrize("asked", ["a close", "a read"])
def test_what_its_thread_had_just_taken_when_it_was_abandoned_is_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Somebody abandons an engine while somebody else closes it, and waits for the store's last word."""
    taken: list[Callable[[], None]] = []

    class Taken(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            job = super().get(block, timeout)
            if job is not None and taken:
                taken.pop()()
            return job

    monkeypatch.setattr("durable.store.thread.SimpleQueue", Taken)

    async def story() -> None:
        here = asyncio.get_running_loop()
        engine = await Engine(path, services=[hello]).start()
        await engine.call(hello)
        store = engine._store
        assert isinstance(store, SqliteStore) and store._thread is not None
        thread = store._thread

        def abandons() -> None:
            here.call_soon_threadsafe(engine.abandon)
            while not thread.forsaken:
                time.sleep(0.001)

        taken.append(abandons)
        asking = asyncio.ensure_future(engine.close() if asked == "a close" else store.journal(1))
        await asyncio.wait([asking], timeout=30)
        assert asking.done() and not taken
        told = asking.exception()
        assert told is None if asked == "a close" else isinstance(told, EngineNotRunningError)

    asyncio.run(story())


@pytest.mark.process
@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_process_ends_though_its_store_was_not_closed(path: Path, ending: str) -> None:
    text = (
        "import asyncio, sys\nfrom durable.store.sqlite import SqliteStore\n"
        "async def main():\n    await SqliteStore(sys.argv[1]).open()\n"
        f"    {ending}\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == {"pass": 0, "sys.exit(3)": 3}.get(ending, done.returncode or 1)
    assert "durable" not in done.stderr.replace(str(path), "").replace("from durable", ""), done.stderr
    assert another(path) == "opened"


@pytest.mark.parametrize("what", ["directory", "device"])
def test_what_is_no_file_is_named(tmp_path: Path, what: str) -> None:
    place = tmp_path if what == "directory" else Path("/dev/null")
    with pytest.raises(StorageReadOnlyError, match=str(place)):
        FileLock(str(place)).acquire()
