"""The journal of an invocation as a tree: what its handler did, how long it took, and what was called below it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from durable.cli.output import STATUS_STYLES
from durable.cli.words import ago, compact, line, moment_ms, payload, roughly

Shown = Mapping[str, Any]
#: How much of a value is shown on a line.
VALUE_MAX = 60
_MARKS = {"success": ("✓", "green"), "failure": ("✗", "red"), "open": ("…", "yellow"), "done": ("·", "dim")}


def journal_tree(one: Shown, entries: Sequence[Shown], children: Sequence[Shown], now: int) -> Tree:
    """One invocation as a tree. Where entries are left out, it says how many."""
    status = str(one["status"])
    ended = moment_ms(one.get("completed_at")) or now
    root = Tree(
        Text.assemble(
            (line(one["target"]), "bold"),
            " ",
            (status, STATUS_STYLES.get(status, "")),
            (f" {roughly(ended - (moment_ms(one['created_at']) or ended))}", "dim"),
        ),
        guide_style="dim",
    )
    below = {child["entry"]: child for child in children}
    before = -1
    for entry, took in zip(entries, durations(entries, now), strict=True):
        missing = entry["index"] - before - 1
        if missing > 0:
            root.add(Text(f"({missing:,} more: --entries shows them)", style="dim"))
        before = max(before, entry["index"])
        branch = root.add(_entry(entry, took, now))
        child = below.get(entry["index"])
        if child is not None and entry["kind"] in ("call", "send"):
            _add_children(branch, child)
    return root


def durations(entries: Sequence[Shown], now: int) -> list[int | None]:
    """How long each entry took, in ms; None for what takes no time.

    Where asking and outcome were recorded apart, it is the time between them. What was awaited at once is recorded
    once, when it had ended: then it is the time since whatever was recorded before it.
    """
    found: list[int | None] = []
    last, before = 0, -1
    for entry in entries:
        began, ended = moment_ms(entry["appended_at"]) or 0, moment_ms(entry.get("completed_at"))
        if entry["kind"] in ("input", "output", "cancel") or entry["result"] == "done":
            found.append(None)
        elif ended is None:
            found.append(now - began)
        elif ended == began:
            found.append(max(0, ended - last) if last and entry["index"] <= before + 1 else None)
        else:
            found.append(ended - began)
        last, before = max(last, ended or began), max(before, entry["index"])  # a cancel's is 0
    return found


def _entry(entry: Shown, took: int | None, now: int) -> Text:
    result = str(entry["result"])
    mark, style = _MARKS.get(result, ("·", "dim"))
    words = Text.assemble((mark, style), f" {entry['index']} ", (line(entry["kind"]), "bold"))
    if entry.get("name"):
        words.append(f" {line(entry['name'])}")
    if entry["kind"] == "sleep" and entry.get("detail"):
        words.append(f" until {ago(entry['detail'], now)}" if result == "open" else "")
    elif entry["kind"] in ("call", "send", "attach") and entry.get("detail"):
        words.append(f" {line(entry['detail'])}", "dim")
    if took is not None:
        words.append(f"  {roughly(took)}{' so far' if result == 'open' else ''}", "cyan")
    value = _value(entry)
    if value:
        words.append(f"  {value if len(value) <= VALUE_MAX else value[:VALUE_MAX] + '…'}", "dim")
    return words


def _value(entry: Shown) -> str:
    value = entry.get("value")
    if entry["result"] == "failure" and isinstance(value, dict) and isinstance(value.get("json"), dict):
        failure = value["json"]
        return line(f"[{failure.get('code', 500)}] {failure.get('message', compact(failure))}")
    return payload(value)


def _add_children(branch: Tree, child: Shown) -> None:
    status = str(child.get("completion_result") or child.get("status") or "forgotten")
    words = Text.assemble(
        line(child["target"]), " ", (line(child["id"]), "dim"), " ", (status, STATUS_STYLES.get(status, "dim"))
    )
    below = branch.add(words)
    for one in child.get("children", []):
        _add_children(below, one)
