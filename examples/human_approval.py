"""Expenses that a manager approves: an awakeable is a wait for the outside, and it may end in a time-out.

    python examples/human_approval.py expenses.db

Each expense sends the manager a mail with the id of an awakeable, and waits. The manager, who is not part of
the handler, answers by resolving that id; in a real service a link in the mail would lead to an endpoint that
calls `engine.resolve_awakeable`. One mail is never answered: that expense is declined when its patience runs
out.

Kill it while it waits and start it again with the same file. The ids in the mails already sent stay valid, an
answer that was given is not asked for again, and the time-outs run on while the process is dead. A handler that
waits longer than a minute costs no memory: the file remembers it.
"""

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from durable import Context, DurableTimeoutError, Engine, Service, handler


@dataclass(frozen=True)
class Expense:
    """What an employee wants to have back."""

    id: str
    what: str
    amount: int
    #: How long the manager may take, for instance "3 days".
    patience: str


EXPENSES = [
    Expense("e-1", "train ticket", 42, "1 day"),
    Expense("e-2", "racehorse", 64_000, "1 day"),
    Expense("e-3", "coffee", 3, "500ms"),
]


class Expenses(Service):
    """The handler and its steps share an outbox: ordinary objects come in through `__init__`."""

    def __init__(self, outbox: Path) -> None:
        self.outbox = outbox

    @handler
    async def reimburse(self, ctx: Context, expense: Expense) -> str:
        """Ask, wait for the answer, pay."""
        answer = ctx.awakeable(bool)
        await ctx.run(self.ask, expense, answer.id)
        try:
            approved = await answer.with_timeout(expense.patience)
        except DurableTimeoutError:
            return f"{expense.what} declined, nobody answered within {expense.patience}"
        if not approved:
            return f"{expense.what} declined by the manager"
        await ctx.run(self.pay, expense)
        return f"{expense.what} paid"

    def ask(self, expense: Expense, answer_id: str) -> None:
        """Send the mail. If the process dies right here it may be sent twice, with the same id."""
        say(f"{expense.id}: asking the manager for {expense.amount} euros for a {expense.what}")
        with self.outbox.open("a") as outbox:
            outbox.write(f"{answer_id} {expense.amount} {expense.what}\n")

    def pay(self, expense: Expense) -> None:
        """Hand over the money."""
        say(f"{expense.id}: paying {expense.amount} euros")


def say(line: str) -> None:
    """In one piece: steps that are no coroutines run in threads, beside each other."""
    print(f"{line}\n", end="")


async def manager(engine: Engine, outbox: Path) -> None:
    """The outside: reads the mails from time to time, never answers the one about coffee.

    After a restart all mails are answered again; an awakeable keeps its first answer.
    """
    answered = 0
    while True:
        await asyncio.sleep(0.05)
        mails = read(outbox)
        for mail in mails[answered:]:
            answer_id, amount, what = mail.split(maxsplit=2)
            if what != "coffee":
                await engine.resolve_awakeable(answer_id, int(amount) < 1000)
        answered = len(mails)


def read(outbox: Path) -> list[str]:
    """All mails so far."""
    return outbox.read_text().splitlines() if outbox.exists() else []


async def main(path: str) -> None:
    """Hand in all expenses at once and wait for what becomes of them."""
    outbox = Path(f"{path}.outbox")
    async with Engine(path, services=[Expenses(outbox)]) as engine, asyncio.TaskGroup() as outside:
        at_work = outside.create_task(manager(engine, outbox))
        calls = [engine.call(Expenses.reimburse, expense, idempotency_key=expense.id) for expense in EXPENSES]
        for expense, result in zip(EXPENSES, await asyncio.gather(*calls), strict=True):
            print(f"{expense.id}: {result}")
        at_work.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/expenses.db"))
