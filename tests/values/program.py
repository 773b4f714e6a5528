"""Each value that goes in, through every door of a workflow: live in one process, replayed in another.

python -m tests.values.program FILE live | replayed
"""

import asyncio
import json
import sys
from typing import Any

if "replayed" in sys.argv:  # another order of imports, and other types decoded first
    import pydantic

    from durable.serde import serde_for

    serde_for(int | str)
    pydantic.TypeAdapter(dict[str, int | None])

from durable import Engine, SharedWorkflowContext, Workflow, WorkflowContext, handler
from tests.values.table import CASES, WORDS, has_serde, same

#: The doors at which something else came back, by workflow.
SEEN: dict[str, list[str]] = {}


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
        mine = ctx.awakeable(type_)
        ctx.resolve_awakeable(mine.id, case.value())
        ctx.send_signal(ctx.request.id, "signal", case.value())
        await ctx.promise("promise", type_).resolve(case.value())
        found = {
            "input": value,
            "step": await ctx.run(step),
            "call": await ctx.call(f"Case{place}/give", key=ctx.key),
            "state": await ctx.get("state", type_),
            "promise": await ctx.promise("promise", type_),
        }
        if not has_serde(type_):  # whoever completes these does not know of it
            found["awakeable"], found["signal"] = await mine, await ctx.signal("signal", type_)
        expected = (case.back or case.value)()
        SEEN[f"Case{place}"] = [name for name, one in found.items() if not same(expected, one)]
        await ctx.signal("go on")
        return SEEN[f"Case{place}"]

    run.__annotations__["value"] = type_
    run.__annotations__["return"] = list[str]
    made: Workflow = type(f"Case{place}", (Workflow,), {"run": handler(run), "give": handler(give)})()
    return made


async def main(path: str, replayed: bool) -> None:
    places = [place for place, case in enumerate(CASES) if case.back not in WORDS]
    async with Engine(path, services=[workflow(place) for place in places], control_socket=False) as engine:
        handles: dict[int, Any] = {}
        for place in places:
            target = f"Case{place}/run"
            if replayed:
                handles[place] = engine.workflow(target, "k")
                await engine.send_signal(handles[place].id, "go on", None)
            else:
                handles[place] = await engine.send(target, CASES[place].value(), key="k")
        while not replayed and len(SEEN) < len(places):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        results = {
            str(place): await handles[place].result() if replayed else SEEN[f"Case{place}"] for place in places
        }
        sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], "replayed" in sys.argv))
