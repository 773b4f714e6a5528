"""`Engine.services()` and `Engine.configure()`: what operators see of services, and what they can change."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    InvalidRequestError,
    NotFoundError,
    ObjectContext,
    Service,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.testing import MemoryStore, Tables, run


class Mail(Service, journal_retention="2h", metadata={"team": "mail"}):
    """Sends letters."""

    @handler(idempotency_retention="3h")
    async def send(self, ctx: Context, to: str) -> int:
        """Send one letter."""
        return len(to)


class Box(VirtualObject):
    @handler
    async def put(self, ctx: ObjectContext, number: int) -> None:
        ctx.set("number", number)


class SignUp(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> bool:
        return True


def declared_anew() -> Service:
    """The same service after a release: one more handler."""

    class Changed(Service, name="Mail", journal_retention="2h", metadata={"team": "mail"}):
        """Sends letters."""

        @handler(idempotency_retention="3h")
        async def send(self, ctx: Context, to: str) -> int:
            """Send one letter."""
            return len(to)

        @handler
        async def send_many(self, ctx: Context, to: list[str]) -> int:
            return len(to)

    return Changed()


def test_services_show_types_schemas_documentation_and_what_holds() -> None:
    async def main() -> None:
        async with Engine(store=MemoryStore(), services=[Mail(), Box(), SignUp()]) as engine:
            box, mail, sign_up = await engine.services()
            assert [one.ty for one in (box, mail, sign_up)] == ["VirtualObject", "Service", "Workflow"]
            assert (mail.revision, mail.documentation, mail.metadata) == (1, "Sends letters.", {"team": "mail"})
            assert (mail.journal_retention, mail.idempotency_retention, mail.abort_timeout) == ("2h", "1d", "10m")
            assert (mail.retry_policy.max_attempts, mail.retry_policy.on_max_attempts) == (70, "Pause")
            [send] = mail.handlers
            assert (send.documentation, send.idempotency_retention, send.journal_retention) == (
                "Send one letter.",
                "3h",
                None,
            )
            assert send.input_json_schema == {"type": "string"}
            assert sign_up.workflow_completion_retention == "1d"
            assert (await engine.service("Box")).handlers[0].ty == "Exclusive"
            with pytest.raises(NotFoundError, match="no service Post; it has: Box, Mail, SignUp"):
                await engine.service("Post")

    run(main)


def test_a_changed_declaration_raises_the_revision_and_a_restart_does_not() -> None:
    async def revision(tables: Tables, *services: object) -> int:
        async with Engine(store=MemoryStore(tables), services=services) as engine:
            return (await engine.service("Mail")).revision

    async def main() -> None:
        tables = Tables()
        assert await revision(tables, Mail()) == 1
        assert await revision(tables, Mail(), Box()) == 1
        assert await revision(tables, declared_anew()) == 2
        assert await revision(tables, declared_anew()) == 2
        assert await revision(tables, Mail()) == 3

    run(main)


def test_the_revision_is_kept_in_the_file(tmp_path: Path) -> None:
    async def main() -> list[int]:
        revisions = []
        for service in (Mail(), Mail(), declared_anew()):
            async with Engine(tmp_path / "a.db", services=[service]) as engine:
                revisions.append((await engine.service("Mail")).revision)
        return revisions

    assert asyncio.run(main()) == [1, 1, 2]


def test_what_is_configured_is_shown_kept_and_can_be_taken_back() -> None:
    async def main() -> None:
        tables = Tables()
        async with Engine(store=MemoryStore(tables), services=[Mail()]) as engine:
            await engine.configure("Mail", journal_retention="5m", public=False)
            await engine.configure("Mail", abort_timeout="7m")
            with pytest.raises(InvalidRequestError, match="not public"):
                await engine.call(Mail.send, "me")
        async with Engine(store=MemoryStore(tables), services=[declared_anew()]) as engine:
            mail = await engine.service("Mail")
            assert (mail.public, mail.journal_retention, mail.abort_timeout) == (False, "5m", "7m")
            await engine.configure("Mail", journal_retention=None, public=None)
            mail = await engine.service("Mail")
            assert (mail.public, mail.journal_retention, mail.abort_timeout) == (True, "2h", "7m")
            assert await engine.call(Mail.send, "me") == 2

    run(main)


def test_changes_at_the_same_time_are_all_made() -> None:
    async def main() -> None:
        async with Engine(store=MemoryStore(), services=[Mail()]) as engine:
            await asyncio.gather(
                engine.configure("Mail", journal_retention="5m"),
                engine.configure("Mail", abort_timeout="7m"),
                engine.configure("Mail", inactivity_timeout="9s"),
            )
            mail = await engine.service("Mail")
            assert (mail.journal_retention, mail.abort_timeout, mail.inactivity_timeout) == ("5m", "7m", "9s")

    run(main)


def test_a_retention_that_is_configured_holds_from_the_next_invocation_on() -> None:
    async def main() -> None:
        async with Engine(store=MemoryStore(), services=[Mail()]) as engine:
            before = await engine.send(Mail.send, "me")
            await before.result()
            await engine.configure("Mail", journal_retention=0)
            after = await engine.send(Mail.send, "me")
            await asyncio.sleep(1)
            assert (await before.describe()).journal
            with pytest.raises(NotFoundError):
                await after.describe()

    run(main)


@pytest.mark.parametrize(
    ("service", "options", "words"),
    [
        ("Mail", {"retry": None}, "retry cannot be set at run time; what can: public"),
        ("Mail", {"colour": "red"}, "colour cannot be set at run time; what can: public"),
        ("Mail", {"workflow_completion_retention": "1d"}, "Mail is not a workflow"),
        ("Mail", {"journal_retention": "soon"}, "journal_retention"),
        ("Mail", {"public": "yes"}, "public must be a bool"),
    ],
)
def test_what_cannot_be_configured_is_refused(service: str, options: dict[str, Any], words: str) -> None:
    async def main() -> None:
        async with Engine(store=MemoryStore(), services=[Mail()]) as engine:
            before = await engine.services()
            with pytest.raises(InvalidRequestError, match=words):
                await engine.configure(service, **options)  # type: ignore[arg-type, unused-ignore]
            with pytest.raises(NotFoundError, match="no service Post"):
                await engine.configure("Post", public=True)
            assert await engine.services() == before

    run(main)
