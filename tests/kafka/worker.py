"""A program that takes records until it is killed: `python -m tests.kafka.worker PATH TOPIC`, its cluster on stdin.

Prints READY once both subscriptions are there, and DONE when as many records were taken and have ended as it was told
to wait for.
"""

import asyncio
import json
import sys

from durable import Context, Engine, ObjectContext, VirtualObject, handler

SUBSCRIBED = ("service://Ordered/take", "service://Plain/take")


class Ordered(VirtualObject):
    """Notices where the numbers of a key do not follow each other."""

    @handler
    async def take(self, ctx: ObjectContext, number: int) -> None:
        last = await ctx.get("last", int) or 0
        if number != last + 1:
            ctx.set("wrong", [*(await ctx.get("wrong", list[list[int]]) or []), [last, number]])
        ctx.set("last", number)


@handler(service="Plain")
async def take(ctx: Context, number: int) -> int:
    return number


async def main(path: str, topic: str) -> None:
    wanted = json.loads(sys.stdin.readline())
    engine = Engine(path, services=[Ordered(), take], kafka_clusters={"main": wanted["cluster"]})
    async with engine:
        for sink in SUBSCRIBED:
            await engine.subscribe(f"kafka://main/{topic}", sink, {"auto.offset.reset": "earliest"})
        print("READY", flush=True)  # noqa: T201
        while True:
            views = await engine.subscriptions()
            failed = [one for one in views if one.state == "failed"]
            assert not failed, failed
            if [one.taken for one in views] == [wanted["count"]] * 2:
                counts = await engine.count_invocations()
                if counts == {"completed": 2 * wanted["count"]}:
                    break
            await asyncio.sleep(0.1)
        print("DONE", flush=True)  # noqa: T201
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
