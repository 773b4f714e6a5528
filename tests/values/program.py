"""Each value that goes in, through every door of a workflow: live in one process, replayed in another.

python -m tests.values.program FILE live | replayed
"""

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

if "replayed" in sys.argv:  # another order of imports, and other types decoded first
    import pydantic

    from durable.serde import serde_for

    serde_for(int | str)
    pydantic.TypeAdapter(dict[str, int | None])

from durable import (
    Engine,
    SharedObjectContext,
    SharedWorkflowContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.kafka.records import input_of
from tests.values.table import CASES, WORDS, Case, has_serde, same

#: The doors at which something else came back, by workflow.
SEEN: dict[str, list[str]] = {}
#: Awakeables that are resolved from outside.
OUTSIDE: dict[int, str] = {}
PLACES = [place for place, case in enumerate(CASES) if case.back not in WORDS]
#: Those of which whoever writes without knowing the annotation can write the value.
OPEN = [place for place in PLACES if not has_serde(CASES[place].annotation)]


def wrong(case: Case, found: dict[str, Any]) -> list[str]:
    """The doors that gave something else."""
    expected = (case.back or case.value)()
    return [door for door, one in found.items() if not same(expected, one)]


def workflow(place: int) -> Workflow:
    """The workflow of one case."""
    case = CASES[place]
    type_: Any = case.annotation

    def step() -> Any:
        return case.value()

    step.__annotations__["return"] = type_

    async def give(self: Any, ctx: SharedWorkflowContext) -> Any:
        return case.value()

    give.__annotations__["return"] = type_

    async def run(self: Any, ctx: WorkflowContext, value: Any) -> Any:
        ctx.set("state", case.value(), type_)
        mine, outside = ctx.awakeable(type_), ctx.awakeable(type_)
        OUTSIDE[place] = outside.id
        if place in OPEN:
            ctx.resolve_awakeable(mine.id, case.value())
            ctx.send_signal(ctx.request.id, "signal", case.value())
            ctx.set("open state", case.value())
        await ctx.promise("promise", type_).resolve(case.value())
        found = {
            "input": value,
            "step": await ctx.run(step),
            "call": await ctx.call(f"Case{place}/give", key=ctx.key),
            "state": await ctx.get("state", type_),
            "promise": await ctx.promise("promise", type_),
        }
        if place in OPEN:  # whoever completes these knows no type
            found["awakeable"], found["signal"] = await mine, await ctx.signal("signal", type_)
            found["open state"] = await ctx.get("open state", type_)
            found["awakeable from outside"] = await outside
            found["signal from outside"] = await ctx.signal("from outside", type_)
            found["promise from outside"] = await ctx.promise("from outside", type_)
        SEEN[f"Case{place}"] = wrong(case, found)
        await ctx.signal("go on")
        return SEEN[f"Case{place}"]

    run.__annotations__["value"] = type_
    run.__annotations__["return"] = list[str]
    made: Workflow = type(f"Case{place}", (Workflow,), {"run": handler(run), "give": handler(give)})()
    return made


class Patched(VirtualObject):
    """Its state is written from outside."""

    @handler(shared=True)
    async def read(self, ctx: SharedObjectContext) -> dict[str, list[str]]:
        """What came back as something else."""
        return {
            CASES[place].what: doors
            for place in OPEN
            if (doors := wrong(CASES[place], {"patch_state": await ctx.get(f"{place}", CASES[place].annotation)}))
        }


async def begin(engine: Engine, place: int) -> Any:
    """Invoke one workflow, and complete from outside what it waits for."""
    case = CASES[place]
    handle = await engine.send(f"Case{place}/run", case.value(), key="k")
    if place in OPEN:
        await engine.resolve_promise(f"Case{place}", "k", "from outside", case.value())
        await engine.send_signal(handle.id, "from outside", case.value())
        while place not in OUTSIDE:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await engine.resolve_awakeable(OUTSIDE[place], case.value())
    return handle


async def asked(engine: Engine, place: int) -> list[str]:
    """What the engine itself gives: an answer, the same again by its idempotency key, and what a record would."""
    target, case = f"Case{place}/give", CASES[place]
    registered = engine._registry.find(f"Case{place}/run")
    record: Any = SimpleNamespace(value=registered.encode_input(case.value()))
    found = {
        "answer": await engine.call(target, key="k", idempotency_key="once"),
        "the same answer": await engine.call(target, key="k", idempotency_key="once"),
        "record": registered.arguments(input_of(record, registered))[0],
    }
    return wrong(case, found)


async def main(path: str, replayed: bool) -> None:
    services = [Patched(), *map(workflow, PLACES)]
    async with Engine(path, services=services, control_socket=False) as engine:
        handles: dict[int, Any] = {}
        for place in PLACES:
            if replayed:
                handles[place] = engine.workflow(f"Case{place}/run", "k")
                await engine.send_signal(handles[place].id, "go on", None)
            else:
                handles[place] = await begin(engine, place)
        if not replayed:
            await engine.patch_state("Patched", "k", {f"{place}": CASES[place].value() for place in OPEN})
        while not replayed and len(SEEN) < len(PLACES):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        results = {
            CASES[place].what: await asked(engine, place)
            + (await handles[place].result() if replayed else SEEN[f"Case{place}"])
            for place in PLACES
        }
        sys.stdout.write(json.dumps([results, await engine.call(Patched.read, key="k")]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], "replayed" in sys.argv))
