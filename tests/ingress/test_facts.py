"""The ingress of Restate's own server, with the same services, is asked what ours is asked.

Field by field, the answers are the same, but for what stands in `docs/ingress.md`.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import Applied, DurableError, EngineUnreachableError, Handle, TerminalError
from tests.admin.facts.differences import Difference, cell, differences, lines
from tests.admin.facts.sides import Servers, servers
from tests.ingress.facts.questions import Side, questions

TABLE = Path(__file__).parents[2] / "docs" / "ingress.md"


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Servers]:
    """Both of them, where nothing has happened yet."""
    with servers(tmp_path, "tests.ingress.facts.theirs", "tests.ingress.facts.ours") as started:
        yield started


@pytest.mark.process
def test_both_answer_alike_but_for_what_the_table_says(at: Servers) -> None:
    sides = Side(at.ingress), Side(at.ours)
    with ThreadPoolExecutor(2) as pool, sides[0].http, sides[1].http:
        found = list(dict.fromkeys(asked(sides, pool)))
    table = lines(TABLE)
    unknown = [one for one in found if not any(line.covers(one) for line in table)]
    untrue = [line for line in table if not any(line.covers(one) for one in found)]
    told = "\n".join(map(str, unknown))
    assert not unknown, f"mend these, or write them into docs/ingress.md with a reason:\n{told}"
    told = "\n".join(f"| {' | '.join(map(cell, line[:4]))} | {line.why} |" for line in untrue)
    assert not untrue, f"these lines of docs/ingress.md are no longer true:\n{told}"


@pytest.mark.process
def test_a_client_of_ours_is_told_the_same_by_both(at: Servers) -> None:
    assert asyncio.run(story(at.ingress, at.admin)) == asyncio.run(story(at.ours, None))


async def story(ingress: str, admin: str | None) -> list[object]:
    """What `durable.connect` finds there, as far as ids go not."""

    async def told(asking: Awaitable[object]) -> object:
        try:
            return await asking
        except TerminalError as error:
            return type(error), str(error), error.code, error.metadata
        except DurableError as error:
            return type(error)

    async with durable.connect(ingress, admin=admin) as client:
        sent = await client.send("Echo/count", idempotency_key="c-1")
        again = await client.send("Echo/count", idempotency_key="c-1")
        late = await client.send("Echo/greet", "Ada", delay="1h")
        before = await client.call("Cart/read", key="id")
        waiting = await client.send("Echo/waiter")
        while (id := await client.call("Cart/read", key="id")) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await client.resolve_awakeable(id, "come")
        rejected = await client.send("Echo/waiter")
        while (other := await client.call("Cart/read", key="id")) == id:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await client.reject_awakeable(other, "never")
        run = await client.send("SignUp/run", "Ada", key="c-1")
        await client.call("SignUp/answer", " yes", key="c-1")
        if admin is not None:  # their own admin API
            assert await client.cancel(late.id) in (Applied.ACCEPTED, Applied.DONE)
            await client.purge((await settled(client.workflow("SignUp/run", "c-1"))).id)
            with pytest.raises(EngineUnreachableError, match="cannot be read"):
                await client.services()
        return [
            await told(client.call("Echo/greet", "Ada")),
            await told(client.call("Echo/raw", b"\0bytes")),
            await told(client.call("Echo/nothing")),
            await told(client.call("Echo/count", idempotency_key="c-2")),
            await told(client.call("Cart/add", 2, key="a/b ü")),
            await told(client.call("Echo/fail", 418)),
            await told(client.call("Echo/refuse")),
            await told(client.call("Echo/none")),
            await told(client.call("None/none")),
            await told(client.call("Hidden/secret")),
            await told(sent.result()),
            (again.id == sent.id, sent.accepted, again.accepted),
            await told(client.idempotent("Echo/count", "c-1").result()),
            await told(client.attach(sent.id, int)),
            await told(client.output(sent.id)),
            await told(waiting.result()),
            await told(rejected.result()),
            await told(run.result()) if admin is None else "Ada yes",
        ]


async def settled(handle: Handle[Any]) -> Handle[Any]:
    """The same, once it has ended."""
    assert await handle.result() == "Ada yes"
    return handle


def asked(sides: tuple[Side, Side], pool: ThreadPoolExecutor) -> Iterator[Difference]:
    """Ask both, one question after the other; yields every difference."""
    for name, ask in questions():
        yield from differences(name, *pool.map(ask, sides))
