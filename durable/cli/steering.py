"""What is done to invocations: cancel, kill, pause, resume, restart, purge; to those that are named, or to many."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from durable.cli.asking import agreed
from durable.cli.commands import JSON, NDJSON, ONCE, Desk, command, keyed
from durable.cli.exits import Exit, Failed, usage
from durable.cli.filters import filtered, pages, wanted
from durable.cli.invocations import group
from durable.cli.places import Need
from durable.cli.sessions import checked, json_of
from durable.cli.words import line, many
from durable.remote.wire import encoded_path, problem_in

#: How many of a large batch one request names, and how many examples a question shows.
AT_ONCE, EXAMPLES = 1000, 5
#: Up to how many are named one by one.
ONE_BY_ONE = 20
_NOT_ENDED = "scheduled,pending,ready,running,backing-off,suspended,paused"


class Verb(msgspec.Struct, frozen=True):
    """Something that can be done to an invocation."""

    name: str
    #: Its route, and the words for what was done.
    route: str
    done: str
    #: The statuses in which it can be done: of many, the others are not meant.
    statuses: str


CANCEL = Verb("cancel", "cancel", "cancelled", _NOT_ENDED)
KILL = Verb("kill", "kill", "killed", _NOT_ENDED)
PAUSE = Verb("pause", "pause", "paused", "ready,running,backing-off,suspended")
RESUME = Verb("resume", "resume", "resumed", "paused,backing-off")
PURGE = Verb("purge", "purge", "purged", "completed")
PURGE_JOURNAL = Verb("purge", "purge-journal", "without a journal now", "completed")
RESTART = Verb("restart", "restart-as-new", "restarted", "completed")


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one."""

    id: str
    ok: bool
    #: "done", "accepted" (it takes effect when the handler comes to it), "unchanged".
    outcome: str = ""
    new_id: str = ""
    error: str = ""
    #: The status of the answer, where there was one for it alone.
    status: int = 0


def add_to(root: click.Group) -> None:
    """The group is that of `invocations`."""


def steering(work: Any) -> Any:
    """Give a command ids, filters, and what bulk work needs."""
    extra = [
        click.Argument(["ids"], nargs=-1, metavar="[ID]..."),
        click.Option(["--yes", "-y"], is_flag=True, help="Do not ask before many are touched."),
        click.Option(["--dry-run"], is_flag=True, help="Change nothing; say what would happen to each."),
        ONCE,
    ]
    filtered(work)
    work.__click_params__ = [*work.__click_params__, *extra]
    return work


@command(group, "cancel", Need.CHANGE)
@steering
@click.option("--kill", is_flag=True, help="Kill them instead: no more of their code runs.")
async def cancel(desk: Desk, kill: bool, **given: Any) -> None:
    """Cancel invocations: those that you name by ID, or all that the filters find.

    Their calls are cancelled first. Once those have ended, their handlers can undo what they did (in a stopped file,
    at the next start).
    """
    await steer(desk, KILL if kill else CANCEL, **given)


@command(group, "kill", Need.CHANGE)
@steering
async def kill(desk: Desk, **given: Any) -> None:
    """Kill invocations and the calls they wait for: no more of their code runs, and nothing is undone."""
    await steer(desk, KILL, **given)


@command(group, "pause", Need.CHANGE)
@steering
async def pause(desk: Desk, **given: Any) -> None:
    """Pause invocations: running steps end and are recorded, then nothing happens until you resume them."""
    await steer(desk, PAUSE, **given)


@command(group, "resume", Need.CHANGE)
@steering
async def resume(desk: Desk, **given: Any) -> None:
    """Resume paused invocations, and retry those that are backing off at once."""
    await steer(desk, RESUME, **given)


@command(group, "restart", Need.CHANGE)
@steering
@click.option(
    "--from", "from_entry", type=click.IntRange(0), default=0, help="How many entries of the journal to keep."
)
async def restart(desk: Desk, from_entry: int, **given: Any) -> None:
    """Run completed invocations again, as new ones with the same input."""
    await steer(desk, RESTART, from_entry=from_entry, **given)


@command(group, "purge", Need.CHANGE)
@steering
@click.option("--journal", is_flag=True, help="Delete only their journals, and keep the results.")
async def purge(desk: Desk, journal: bool, **given: Any) -> None:
    """Delete completed invocations: results, journals, idempotency keys. This cannot be undone."""
    await steer(desk, PURGE_JOURNAL if journal else PURGE, **given)


group.add_command(click.Command("rm", params=cancel.params, callback=cancel.callback, help="The same as `cancel`."))


async def steer(
    desk: Desk,
    verb: Verb,
    *,
    ids: Sequence[str],
    yes: bool,
    dry_run: bool,
    once: str | None,
    from_entry: int = 0,
    **filters: Any,
) -> None:
    """Do it to those that are meant, and say what became of them. Raises `Failed` where one could not be done."""
    query = wanted(filters)
    if bool(ids) == bool(query):
        raise usage(f"name the invocations to {verb.name} by their ids, or by filters such as --service; not both")
    if query:
        ids = await _meant(desk, verb, query)
        if not ids:
            desk.out.note(f"there is nothing to {verb.name}")
            _summary(desk, verb, [], dry_run)
            return
        if not yes and not dry_run:
            agreed(desk.out, f"{verb.name} {many(len(ids), 'invocation')}?")
        if from_entry:
            raise usage("--from is for invocations that are named by their ids")
        outcomes = await _in_bulk(desk, verb, ids, dry_run, once)
    else:
        outcomes = [await _one(desk, verb, id, dry_run, from_entry, once) for id in dict.fromkeys(ids)]
    _summary(desk, verb, outcomes, dry_run)
    failed = [one for one in outcomes if not one.ok]
    if failed and all(one.status == 404 for one in failed):
        raise Failed("", Exit.NOT_FOUND)
    if failed and len(outcomes) == 1 and failed[0].status == 400:
        raise Failed("", Exit.USAGE)
    if failed:
        raise Failed("")


async def _meant(desk: Desk, verb: Verb, query: dict[str, Any]) -> list[str]:
    """Those that the filters find, and in which it can be done; with examples, for whoever is asked."""
    found: list[Any] = []
    async for page in pages(desk, {"status": verb.statuses, **query}, None):
        found += page["invocations"]
    if desk.out.form == "text" and found:
        desk.out.note(f"{many(len(found), 'invocation')} to {verb.name}:")
        for one in found[:EXAMPLES]:
            desk.out.note(f"  {one['id']}  {line(one['target'])}  {one['status']}")
        if len(found) > EXAMPLES:
            desk.out.note(f"  … and {len(found) - EXAMPLES:,} more")
    return [one["id"] for one in found]


async def _one(desk: Desk, verb: Verb, id: str, dry_run: bool, from_entry: int, once: str | None) -> Outcome:
    if dry_run:
        [outcome] = await _batch(desk, verb, [id], True)
        return outcome
    query = {"from": from_entry} if from_entry else None
    answer = await desk.change("PATCH", f"/invocations{encoded_path(id)}/{verb.route}", query=query, once=once)
    if answer.status in (400, 404, 409, 410, 422, 425):
        return Outcome(id, False, error=problem_in(answer).message, status=answer.status)
    checked(answer)
    said = json_of(answer) if answer.body else {}  # Restate's own server says it by the status alone
    became = said.get("outcome") or ("accepted" if answer.status == 202 else "done")
    return Outcome(id, True, became, said.get("new_invocation_id", ""))


async def _in_bulk(desk: Desk, verb: Verb, ids: Sequence[str], dry_run: bool, once: str | None) -> list[Outcome]:
    """All of them, with a bar on a terminal."""
    found: list[Outcome] = []
    with _bar(desk, verb.name, len(ids)) as tick:
        for start in range(0, len(ids), AT_ONCE):
            found += await _batch(desk, verb, ids[start : start + AT_ONCE], dry_run, once, tick)
    return found


@contextmanager
def _bar(desk: Desk, name: str, total: int) -> Iterator[Callable[[], None]]:
    """How far it is, on a terminal; what is yielded is called for each that is done."""
    console = desk.out.errors
    if not console.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)
        bar.refresh()


async def _batch(
    desk: Desk,
    verb: Verb,
    ids: Sequence[str],
    dry_run: bool,
    once: str | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    told: list[Outcome] = []

    def on_line(text: bytes) -> None:
        one = msgspec.json.decode(text)
        told.append(
            Outcome(one["invocation_id"], one["succeeded"], one.get("outcome") or "", error=one.get("error") or "")
        )
        tick()

    path = f"/internal/invocations_batch_operations/{verb.route}"
    query = {"dry_run": "true"} if dry_run else {}
    streamed = verb is not RESTART
    answer = await desk.place.admin.ask(
        "POST", path, query=query, body=msgspec.json.encode({"invocation_ids": list(ids)}),
        headers={**JSON, **keyed(once), **({"accept": NDJSON} if streamed else {})},
        on_line=on_line if streamed else None,
    )  # fmt: skip
    checked(answer)
    if streamed and answer.headers.get("content-type", "").startswith(NDJSON):
        return told
    result = json_of(answer)
    for one in result["succeeded"]:
        pair = one if isinstance(one, dict) else {"old_invocation_id": one}
        told.append(Outcome(pair["old_invocation_id"], True, "done", pair.get("new_invocation_id", "")))
        tick()
    told += [Outcome(one["invocation_id"], False, error=one["error"]) for one in result["failed"]]
    return told


def _summary(desk: Desk, verb: Verb, outcomes: Sequence[Outcome], dry_run: bool) -> None:
    out = desk.out
    rows = [{name: value for name, value in msgspec.to_builtins(one).items() if name != "status"} for one in outcomes]
    if out.form == "json":
        done, failed = sum(one.ok for one in outcomes), sum(not one.ok for one in outcomes)
        out.value({"dry_run": dry_run, "succeeded": done, "failed": failed, "invocations": rows})
        return
    if out.form == "jsonl":
        for row in rows:
            out.value(row)
        return
    good = [one for one in outcomes if one.ok]
    if len(outcomes) <= ONE_BY_ONE:
        for one in good:
            out.text(f"{one.id} {_became(verb, one, dry_run)}")
    else:
        for kind, some in sorted(Counter(_became(verb, one, dry_run) for one in good).items()):
            out.text(f"{some:,} {kind}")
    for one in outcomes:
        if not one.ok:
            out.error(f"{one.id}: {one.error}")


def _became(verb: Verb, one: Outcome, dry_run: bool) -> str:
    """What became of it, in words."""
    if one.outcome == "accepted":
        return f"{verb.name} {'would be ' if dry_run else ''}accepted"
    if one.outcome == "unchanged":
        return f"{'would stay' if dry_run else 'stays'} as it is"
    return f"{'would be ' if dry_run else ''}{verb.done}{f' as {one.new_id}' if one.new_id else ''}"
