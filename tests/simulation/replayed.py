"""Trees of combinators in a real file: run live in one process, replayed from the beginning in another.

`python -m tests.simulation.replayed FILE SEEDS` goes on with what is in the file, to its end, and prints what each
handler decided, in order, and which steps it ran.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from durable import Context, Engine, TerminalError, as_completed, handler
from durable.core.ids import awakeable_id
from durable.testing import run
from tests.runtime.support import engine_on
from tests.simulation.test_random_combinators import TICK_S, Built, program_of

#: When the last leaf has completed, and everything that waits for it.
END_S = 10.0


def flows(seed: int) -> bool:
    """Whether each tree is awaited in a flow of its own."""
    return bool(seed % 2)


def notes(seed: int) -> bool:
    """Whether each decision is followed by a step: a replay then comes to it with what was known then, not more."""
    return seed % 4 >= 2


class Seen(msgspec.Struct):
    """What one process saw."""

    #: What each handler was given by its trees: (tree, what); -1 is the order of its leaves.
    decided: dict[int, list[tuple[int, Any]]]
    #: Steps that were run: (seed, leaf).
    ran: list[tuple[int, int]]
    #: The ids of the invocations, by seed.
    ids: dict[int, str]


class Trees:
    """The handlers, and what is seen of them in this process."""

    def __init__(self) -> None:
        self.seen = Seen({}, [], {})
        seen = self.seen

        async def work(leaf: tuple[int, int]) -> str:
            seen.ran.append(leaf)
            return await ends(leaf, asyncio.sleep)

        async def note(place: int) -> None:
            seen.ran.append((-1, place))

        async def ends(leaf: tuple[int, int], sleep: Any) -> str:
            one = program_of(leaf[0]).leaves[leaf[1]]
            await sleep(one.at * TICK_S)
            if one.fails:
                raise TerminalError(f"{one.name} failed")
            return one.name

        @handler(service="S")
        async def child(ctx: Context, leaf: tuple[int, int]) -> str:
            return await ends(leaf, ctx.sleep)

        @handler(service="S")
        async def parent(ctx: Context, seed: int) -> list[tuple[int, Any]]:
            seen.ids[seed] = ctx.request.id
            decided = seen.decided[seed] = []
            program = program_of(seed)
            built = Built(ctx, work, program, lambda number: (seed, number))
            early = [built.combined(tree) for tree in program.trees] if seed % 3 else None

            async def decide(place: int) -> None:
                tree = early[place] if early is not None else built.combined(program.trees[place])
                try:
                    decided.append((place, built.plain(await tree)))
                except TerminalError as error:
                    decided.append((place, built.plain(error)))
                if notes(seed):
                    await ctx.run(note, place)

            if flows(seed):
                await asyncio.gather(*map(decide, range(len(program.trees))))
            else:  # one after the other: of later ones some leaves have completed before they are made
                for place in range(len(program.trees)):
                    await decide(place)
            decided.append((-1, [built.plain(future) async for future in as_completed(*built.leaves)]))
            await ctx.signal("end")
            return decided

        self.services = (parent, child)

    def engine(self, path: Path) -> Engine:
        """One that unloads nobody by itself."""
        return engine_on(path, *self.services, inactivity_timeout="1h")


async def settle_awakeables(engine: Engine, ids: dict[int, str]) -> None:
    """Each at its moment; what was settled before stays as it is."""
    leaves = [(leaf.at, seed, leaf) for seed in ids for leaf in program_of(seed).leaves if leaf.kind == "awakeable"]
    began = asyncio.get_running_loop().time()
    for at, seed, leaf in sorted(leaves, key=lambda one: one[:2]):
        await asyncio.sleep(max(0.0, began + at * TICK_S - asyncio.get_running_loop().time()))
        id = awakeable_id(ids[seed], leaf.number + 1)
        if leaf.fails:
            await engine.reject_awakeable(id, f"{leaf.name} failed")
        else:
            await engine.resolve_awakeable(id, leaf.name)


def live(path: Path, seeds: Sequence[int], *, until_s: float) -> Seen:
    """Run them, all at once, and stop as a kill would."""
    trees = Trees()

    async def story() -> None:
        async with trees.engine(path) as engine:
            ids = {seed: (await engine.send("S/parent", seed)).id for seed in seeds}
            settling = asyncio.ensure_future(settle_awakeables(engine, ids))
            await asyncio.sleep(until_s)
            settling.cancel()
            engine.abandon()

    run(story)
    return trees.seen


def replayed(path: Path) -> Seen:
    """Go on with them, in order of their journals, and let them end."""
    trees = Trees()

    async def story() -> None:
        async with trees.engine(path) as engine:
            await asyncio.sleep(1)  # everybody has been asked for again
            await settle_awakeables(engine, trees.seen.ids)
            await asyncio.sleep(END_S)
            for id in trees.seen.ids.values():
                await engine.send_signal(id, "end")
            for seed, id in trees.seen.ids.items():
                decided = await engine.attach(id, list[tuple[int, Any]])
                assert decided == trees.seen.decided[seed], f"seed {seed} ended with {decided}"

    run(story)
    return trees.seen


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(replayed(Path(sys.argv[1]))))
