"""C-095: a serializer may write the same value in other bytes each time: a replay compares everything else."""

import os
from collections.abc import Iterable
from typing import Annotated, Any

from durable import (
    Context,
    Serde,
    SharedWorkflowContext,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.testing import Sim, check


class Secret:
    """What no serializer but its own knows."""

    def __init__(self, text: str) -> None:
        self.text = text


def lock(secret: Secret) -> bytes:
    nonce = os.urandom(8)
    key = (nonce * 100)[: len(secret.text)]
    return nonce + bytes(a ^ b for a, b in zip(secret.text.encode(), key, strict=True))


def unlock(data: bytes) -> Secret:
    key = (data[:8] * 100)[: len(data) - 8]
    return Secret(bytes(a ^ b for a, b in zip(data[8:], key, strict=True)).decode())


Locked = Annotated[Secret, Serde(lock, unlock, stable=False)]


def test_what_is_locked_with_a_nonce_is_replayed_through_every_door() -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def echo(ctx: Context, secret: Locked) -> Locked:
            return secret

        class Flow(Workflow):
            @handler
            async def run(self, ctx: WorkflowContext, secret: Locked) -> list[str]:
                ctx.set("kept", secret, Locked)
                await ctx.promise("told", Locked).resolve(secret)
                echoed = await ctx.call(echo, secret)
                ctx.send(echo, secret)
                await ctx.sleep("1s")
                kept = await ctx.get("kept", Locked)
                assert kept is not None
                return [one.text for one in (echoed, kept, await ctx.promise("told", Locked))]

            @handler
            async def look(self, ctx: SharedWorkflowContext) -> None: ...

        return [echo, Flow()]

    async def scenario(sim: Sim) -> Any:
        return await sim.call("Flow/run", Secret("pst"), key="k")

    assert check(services, scenario) == ["pst", "pst", "pst"]
