"""Programs for the tests of guards, each in a process of its own: `python -m tests.runtime.program VERB PATH`."""

import asyncio
import gc
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from durable import Context, Engine, EngineLockedError, ForkedEngineError, handler

ID = "inv_1" + "0" * 33
SUBSCRIPTION = "sub_1" + "0" * 22
#: Every coroutine function of an engine, called with something that has the right form.
ASKS: dict[str, Callable[[Engine], Awaitable[Any]]] = {
    "call": lambda engine: engine.call("Program/add", 1),
    "send": lambda engine: engine.send("Program/add", 1),
    "attach": lambda engine: engine.attach(ID),
    "output": lambda engine: engine.output(ID),
    "outcome": lambda engine: engine.outcome(ID),
    "outcome_now": lambda engine: engine.outcome_now(ID),
    "invocations": lambda engine: engine.invocations(),
    "page": lambda engine: engine.page(),
    "count_invocations": lambda engine: engine.count_invocations(),
    "describe": lambda engine: engine.describe(ID),
    "journal": lambda engine: engine.journal(ID),
    "resolve_awakeable": lambda engine: engine.resolve_awakeable("sign_1" + "0" * 33 + "1"),
    "reject_awakeable": lambda engine: engine.reject_awakeable("sign_1" + "0" * 33 + "1", "no"),
    "send_signal": lambda engine: engine.send_signal(ID, "s"),
    "reject_signal": lambda engine: engine.reject_signal(ID, "s", "no"),
    "resolve_promise": lambda engine: engine.resolve_promise("Program", "k", "p"),
    "reject_promise": lambda engine: engine.reject_promise("Program", "k", "p", "no"),
    "cancel": lambda engine: engine.cancel(ID),
    "kill": lambda engine: engine.kill(ID),
    "pause": lambda engine: engine.pause(ID),
    "resume": lambda engine: engine.resume(ID),
    "resume_all": lambda engine: engine.resume_all(),
    "restart_as_new": lambda engine: engine.restart_as_new(ID),
    "purge": lambda engine: engine.purge(ID),
    "purge_journal": lambda engine: engine.purge_journal(ID),
    "configure": lambda engine: engine.configure("Program", public=True),
    "services": lambda engine: engine.services(),
    "service": lambda engine: engine.service("Program"),
    "deadlocks": lambda engine: engine.deadlocks(),
    "get_state": lambda engine: engine.get_state("Program", "k"),
    "patch_state": lambda engine: engine.patch_state("Program", "k", {}),
    "stored_state": lambda engine: engine.stored_state("Program", "k"),
    "replace_state": lambda engine: engine.replace_state("Program", "k", {}),
    "backup": lambda engine: engine.backup("/nowhere/at/all.db"),
    "codec_keys": lambda engine: engine.codec_keys(),
    "encode_again": lambda engine: engine.encode_again(),
    "subscribe": lambda engine: engine.subscribe("kafka://c/t", "service://Program/add"),
    "subscriptions": lambda engine: engine.subscriptions(),
    "subscription": lambda engine: engine.subscription(SUBSCRIPTION),
    "unsubscribe": lambda engine: engine.unsubscribe(SUBSCRIPTION),
    "pause_subscription": lambda engine: engine.pause_subscription(SUBSCRIPTION),
    "resume_subscription": lambda engine: engine.resume_subscription(SUBSCRIPTION),
    "kafka_clusters": lambda engine: engine.kafka_clusters(),
    "kafka_cluster": lambda engine: engine.kafka_cluster("c"),
    "add_kafka_cluster": lambda engine: engine.add_kafka_cluster("c", {}),
    "change_kafka_cluster": lambda engine: engine.change_kafka_cluster("c", {}),
    "remove_kafka_cluster": lambda engine: engine.remove_kafka_cluster("c"),
}
#: What is told of an engine that does not run, too.
TELLS: dict[str, Callable[[Engine], Awaitable[Any]]] = {"health": lambda engine: engine.health()}


@handler(service="Program")
async def add(ctx: Context, number: int) -> int:
    return await ctx.run(lambda: number + 1)


@handler(service="Program")
async def wait(ctx: Context) -> str:
    await ctx.sleep(0.2)
    return "waited"


def say(*words: object) -> None:
    """A line for the test to read."""
    print(*words, flush=True)  # noqa: T201


def line() -> str:
    """A line from the test; empty at its end."""
    return sys.stdin.readline().strip()


async def hold(path: str) -> None:
    """Open the file, accept an invocation, and keep both until the input ends."""
    async with Engine(path, services=[add, wait]) as engine:
        handle = await engine.send(wait)
        say(os.getpid(), handle.id)
        await asyncio.to_thread(line)


async def race(path: str) -> None:
    """At each moment that is named, try to be the engine of the file; let go when told."""
    say("ready")
    while moment := line():
        time.sleep(max(0.0, float(moment) - time.time()))  # noqa: ASYNC251
        engine = Engine(path, services=[add])
        started = time.monotonic()
        try:
            await engine.start()
        except EngineLockedError as error:
            say(json.dumps({"won": False, "took": time.monotonic() - started, "said": str(error)}))
            line()
        else:
            say(json.dumps({"won": True, "pid": os.getpid(), "sum": await engine.call(add, 1)}))
            line()
            await engine.close()
        say("over")


def refusals(engine: Engine) -> dict[str, str]:
    """What each call raises in a forked child, where no event loop runs any more."""
    told: dict[str, str] = {}
    life: dict[str, Callable[[Engine], Awaitable[Any]]] = {"close": Engine.close, "start": Engine.start}
    for name, ask in (ASKS | TELLS | life).items():
        asked: Any = ask(engine)
        try:
            asked.send(None)
        except ForkedEngineError as error:
            told[name] = str(error)
        except BaseException as error:
            told[name] = f"{type(error).__name__} instead of ForkedEngineError: {error}"
        else:
            told[name] = "nothing was raised"
        finally:
            asked.close()
    return told


def in_child(work: Callable[[], object]) -> int:
    """Do something in a forked child; returns its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            say(repr(error))
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tear_down(engine: Engine) -> None:
    """What the exit of an interpreter does to an engine that is left: its connection is closed, its objects go."""
    store: Any = engine._store
    for database in [one for one in gc.get_objects() if isinstance(one, sqlite3.Connection)]:
        database.close()
    store._file._lock.release()
    gc.collect()


async def fork(path: str) -> None:
    """Children that use the engine, and leave in every way; meanwhile and afterwards the parent works on."""
    async with Engine(path, services=[add, wait]) as engine:
        waiting = await engine.send(wait)
        in_child(lambda: say(json.dumps(refusals(engine))))
        say(in_child(lambda: tear_down(engine)))
        say(await engine.call(add, 1))
        process = multiprocessing.get_context("fork").Process(target=refusals, args=(engine,))
        process.start()
        process.join(10)
        say(process.exitcode)
        say(subprocess.run([sys.executable, "-c", "pass"], check=False).returncode)  # noqa: ASYNC221
        total = 0
        for _ in range(20):
            total = await engine.call(add, total)
        say(total, await waiting.result(), len(await engine.invocations()))


async def orphan(path: str) -> None:
    """Leave a forked child behind that outlives its parent."""
    async with Engine(path, services=[add, wait]) as engine:
        await engine.call(add, 1)
        child = os.fork()
        if child == 0:
            time.sleep(60)  # noqa: ASYNC251
            os._exit(0)
        say(child)
        await asyncio.to_thread(line)


if __name__ == "__main__":
    asyncio.run({"hold": hold, "race": race, "fork": fork, "orphan": orphan}[sys.argv[1]](sys.argv[2]))
