"""The socket beside a database file: who can come in, what is there before, and what is left behind."""

import asyncio
import json
import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from durable import Context, Engine, EngineUnreachableError, handler
from durable.remote import beside
from durable.remote.beside import ADDRESS_MAX, socket_path
from durable.remote.wire import Session, check, place_of


@handler(service="Greeter")
async def greet(ctx: Context, name: str) -> str:
    return f"Hello {name}"


async def ask(database: Path) -> object:
    async with Session(place_of(database)) as session:
        path = "/ingress/restate/call/Greeter/greet"
        return json.loads(check(await session.request("POST", path, json="Ada")).body)


async def test_a_running_engine_answers_beside_its_file_to_its_own_user_alone(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    async with Engine(database, services=[greet]):
        there = os.stat(f"{database}.sock")
        assert stat.S_ISSOCK(there.st_mode) and stat.S_IMODE(there.st_mode) == 0o600
        assert await ask(database) == "Hello Ada"
        async with Session(place_of(database)) as session:
            assert (await session.request("GET", "/admin/health")).status == 200
            assert (await session.request("GET", "/else")).status == 404
    assert os.listdir(tmp_path) == ["app.db"]


async def test_it_is_never_open_to_others_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it listens nobody can connect; so what counts is its mode then, whatever the umask says."""
    modes = []

    class Spied(socket.socket):
        def listen(self, *backlog: int) -> None:
            modes.append(stat.S_IMODE(os.stat(tmp_path / "app.db.sock").st_mode))
            super().listen(*backlog)

    monkeypatch.setattr(socket, "socket", Spied)
    before = os.umask(0)
    try:
        async with Engine(tmp_path / "app.db", services=[greet]):
            assert modes == [0o600]
    finally:
        os.umask(before)


async def test_other_users_are_sent_away_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "app.db"
    async with Engine(database, services=[greet]):
        with monkeypatch.context() as patched:
            patched.setattr("durable.engine.door.peer_uid", lambda connected: 12345)
            with pytest.raises(EngineUnreachableError, match="no answer"):
                await ask(database)
        assert "user 12345 was sent away" in caplog.text
        monkeypatch.setattr("durable.remote.wire.peer_uid", lambda connected: 12345)
        with pytest.raises(EngineUnreachableError, match="another user"):
            await ask(database)


def test_the_system_tells_who_is_at_the_other_end() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert beside.peer_uid(here) == os.geteuid()


async def test_a_socket_that_a_dead_engine_left_is_replaced(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{database}.sock")
    with pytest.raises(EngineUnreachableError, match="there is no file"):
        await ask(database)
    async with Engine(database, services=[greet]):
        assert await ask(database) == "Hello Ada"


@pytest.mark.parametrize("kind", ["a file", "a folder", "a link"])
async def test_what_is_no_socket_is_left_alone_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    there = tmp_path / "app.db.sock"
    match kind:
        case "a file":
            there.write_text("mine")
        case "a folder":
            there.mkdir()
        case "a link":
            there.symlink_to(tmp_path / "elsewhere")
    async with Engine(tmp_path / "app.db", services=[greet]) as engine:
        assert await engine.call(greet, "Ada") == "Hello Ada"
        assert "app.db.sock: there is something else of that name" in caplog.text
    assert there.name in os.listdir(tmp_path)


async def test_at_the_end_it_removes_its_own_socket_and_no_other(tmp_path: Path) -> None:
    database, there = tmp_path / "app.db", tmp_path / "app.db.sock"
    with socket.socket(socket.AF_UNIX) as other:
        async with Engine(database, services=[greet]):
            there.unlink()
            other.bind(str(there))
        assert there.exists()


@pytest.mark.parametrize("length", [40, ADDRESS_MAX - 12, ADDRESS_MAX, 108, 250, 450])
async def test_a_path_of_any_length_has_one(tmp_path: Path, length: int) -> None:
    folder = tmp_path
    while len(str(folder)) < length:
        folder /= "f" * min(200, max(1, length - len(str(folder)) - 1))
        folder.mkdir()
    async with Engine(folder / "app.db", services=[greet]):
        assert await ask(folder / "app.db") == "Hello Ada"
    assert os.listdir(folder) == ["app.db"]


async def test_a_long_file_name_has_one_and_so_has_a_link(tmp_path: Path) -> None:
    database = tmp_path / ("d" * 240 + "ä.db")
    link = tmp_path / "link.db"
    link.symlink_to(database)
    async with Engine(link, services=[greet]):
        assert await ask(database) == await ask(link) == "Hello Ada"
        assert socket_path(str(link)) == socket_path(str(database))
        assert len(os.path.basename(socket_path(str(link)))) < 80


async def test_where_paths_cannot_be_shortened_the_engine_runs_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(beside, "_DESCRIPTORS", "/nowhere")
    folder = tmp_path / ("f" * 200)
    folder.mkdir()
    async with Engine(folder / "app.db", services=[greet]) as engine:
        assert await engine.call(greet, "Ada") == "Hello Ada"
    assert "at most 103 bytes here: choose a shorter folder" in caplog.text


async def test_without_leave_to_make_one_the_engine_runs_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    async with Engine(tmp_path / "app.db", services=[greet]) as engine:
        assert await engine.call(greet, "Ada") == "Hello Ada"
    assert "no control socket at" in caplog.text and "Permission denied" in caplog.text


async def test_it_can_be_turned_off_and_memory_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Engine("app.db", services=[greet], control_socket=False), Engine(":memory:", services=[greet]):
        assert not [name for name in os.listdir() if "sock" in name]


async def test_without_the_extra_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.engine.engine.can_answer", lambda: False)
    async with Engine(tmp_path / "app.db", services=[greet]):
        assert "app.db.sock" not in os.listdir(tmp_path)


async def test_an_abandoned_engine_leaves_nothing_open(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    engine = Engine(database, services=[greet])
    async with Session(place_of(database)) as session:
        await engine.start()
        asking = asyncio.ensure_future(session.request("GET", "/admin/health"))
        assert (await asking).status == 200
        engine.abandon()
        await asyncio.sleep(0.05)
        with pytest.raises(EngineUnreachableError):
            await session.request("GET", "/admin/health")
    async with engine:
        assert await ask(database) == "Hello Ada"


UNASKED = """
import asyncio, sys, durable

async def main():
    async with durable.Engine("app.db"):
        print(*({name.partition(".")[0] for name in sys.modules} & {"h11", "starlette", "uvicorn", "httpx"}))

asyncio.run(main())
"""


def test_nothing_is_imported_before_somebody_connects(tmp_path: Path) -> None:
    assert run(UNASKED, tmp_path).stdout == "\n"


CROWDED = """
import asyncio, os, resource, durable
from durable import Context, handler

@handler(service="Greeter")
async def wait(ctx: Context) -> None:
    await ctx.sleep(0.05)

async def main():
    async with durable.Engine("app.db", services=[wait]) as engine, durable.connect("app.db") as client:
        await client.call(wait)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
        await asyncio.gather(*(client.call(wait) for _ in range(60)))
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        print(await engine.count_invocations() == {"completed": 61})

asyncio.run(main())
"""


def test_more_callers_than_descriptors_get_their_turns(tmp_path: Path) -> None:
    """Here both ends share a process: without a way out, all would wait for each other."""
    done = run(CROWDED, tmp_path)
    assert done.stdout == "True\n"
    assert "lets nobody in: Too many open files" in done.stderr


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=60
    )


FORKING = """
import asyncio, os, sys, time, durable
from durable import Context, handler

@handler(service="Greeter")
async def wait(ctx: Context) -> str:
    await ctx.sleep("1h")
    return "never"

async def main():
    async with durable.Engine("app.db", services=[wait]):
        async with durable.connect("app.db") as client:
            waiting = asyncio.ensure_future(client.call(wait))
            while not "running" in await client.count_invocations():
                await asyncio.sleep(0.01)
            child = os.fork()
            if not child:
                print(os.getpid(), flush=True)
                time.sleep(20)
                os._exit(0)
            await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_a_fork_holds_neither_the_socket_nor_its_connections(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKING], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        held = {os.readlink(f"/proc/{child}/fd/{one}") for one in os.listdir(f"/proc/{child}/fd")}
        sockets = [one for one in held if one.startswith("socket:")]
        mine = {
            line.split()[6] for line in Path(f"/proc/{child}/net/unix").read_text().splitlines() if "app.db" in line
        }
        assert not [one for one in sockets if one.removeprefix("socket:[").removesuffix("]") in mine]
        parent.kill()
        parent.wait()
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
            late.connect(str(tmp_path / "app.db.sock"))
    finally:
        os.kill(child, 9)
        parent.kill()
        parent.wait()
        parent.stdout.close()


async def test_the_event_loop_goes_on_while_what_answers_is_imported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a client that goes away before that, or sends nonsense, harms nobody."""
    caplog.set_level(logging.ERROR, "durable")
    database = tmp_path / "app.db"
    async with Engine(database, services=[greet]):
        with socket.socket(socket.AF_UNIX) as hasty, socket.socket(socket.AF_UNIX) as odd:
            hasty.connect(f"{database}.sock")
            odd.connect(f"{database}.sock")
            odd.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            hasty.close()
            assert await asyncio.gather(*(ask(database) for _ in range(20))) == ["Hello Ada"] * 20
    assert not caplog.records
