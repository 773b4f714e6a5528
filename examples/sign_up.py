"""Signing up with a verified address: a workflow runs once per key, and its other handlers talk to it meanwhile.

    python examples/sign_up.py users.db

`run` sends a mail with a code and waits for a promise. `verify` settles the promise once the right code is
typed in, and `status` can be asked at any time. The key is the user's name, so nobody signs up twice.

Kill it while it waits for the code and start it again with the same file. The workflow is where it was: the
code in the mail is still the right one, since the step that drew it is not executed again, and no second
account is made.
"""

import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from durable import Engine, SharedWorkflowContext, TerminalError, Workflow, WorkflowContext, handler


class SignUp(Workflow):
    """One user's way to an account."""

    def __init__(self, mailbox: Path) -> None:
        self.mailbox = mailbox

    @handler
    async def run(self, ctx: WorkflowContext, address: str) -> str:
        """Send the code, wait for it, make the account."""
        code = await ctx.run(draw_code)
        ctx.set("code", code)
        ctx.set("status", "waiting for the code")
        await ctx.run(self.send_mail, address, code)
        await ctx.promise("verified", bool)
        await ctx.run(self.make_account, ctx.key, address)
        ctx.set("status", "signed up")
        return f"account {ctx.key} <{address}>"

    @handler
    async def verify(self, ctx: SharedWorkflowContext, code: str) -> None:
        """Let the workflow go on, if the code is right; typing it in again later is fine."""
        if code != await ctx.get("code", str):
            raise TerminalError("that is not the code in the mail", code=403)
        if not await ctx.promise("verified", bool).peek():
            await ctx.promise("verified", bool).resolve(True)

    @handler
    async def status(self, ctx: SharedWorkflowContext) -> str:
        """How far it is."""
        return await ctx.get("status", str) or "just begun"

    def send_mail(self, address: str, code: str) -> None:
        """Stands for a mail server."""
        print(f"mail to {address}: your code is {code}")
        self.mailbox.write_text(code)

    def make_account(self, name: str, address: str) -> None:
        """Stands for the table of users."""
        print(f"making the account {name} for {address}")


def draw_code() -> str:
    """A secret has to come from a step: `ctx.random()` follows from the key, and others know that, too."""
    return f"{secrets.randbelow(10_000):04}"


async def user(engine: Engine, name: str, mailbox: Path) -> None:
    """The outside: waits for the mail, mistypes the code, then types it in."""
    while True:
        await asyncio.sleep(0.05)
        if code := read(mailbox):
            break
    print(f"status: {await engine.call(SignUp.status, key=name)}")
    for typed in (f"{code}0", code):
        try:
            await engine.call(SignUp.verify, typed, key=name)
        except TerminalError as error:
            print(f"verify: {error.code}, {error.message}")


def read(mailbox: Path) -> str:
    """The code, once it is there."""
    return mailbox.read_text() if mailbox.exists() else ""


async def main(path: str) -> None:
    """Sign up, verify, and see what becomes of it. `send` finds the workflow again if it was started before."""
    mailbox = Path(f"{path}.mailbox")
    async with Engine(path, services=[SignUp(mailbox)]) as engine:
        signing_up = await engine.send(SignUp.run, "ada@example.com", key="ada")
        await user(engine, "ada", mailbox)
        print(f"result: {await signing_up.result()}")
        print(f"status: {await engine.call(SignUp.status, key='ada')}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/users.db"))
