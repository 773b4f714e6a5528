"""Is there a time-out of asyncio or anyio around a durable wait? Found before it fires, however long it is.

Nobody tells: a time-out is an object in the frame of a coroutine that waits, or somewhere behind one. What a task
waits for is followed from its first coroutine to the durable future at the end, and the context managers are looked
at that each of them is in. Where the task is awaited by others (`gather`, task groups, `wait_for` of Python 3.11),
those are looked at, too. A time-out that no frame has is known by its timer.

That costs microseconds, so it is asked where the handler has set timers (`alarms`). On an event loop that does not
show them it is asked once for each place in an attempt, and only where a coroutine there has a `with`, or where there
are several tasks; what no frame has is not found there.
"""

import asyncio
import contextlib
import dis
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack
from gc import get_referents
from math import inf
from types import CodeType, CoroutineType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar, cast

from durable.callbacks import DoneCallback, held_by
from durable.runtime.alarms import aimed_at
from durable.runtime.flows import awaiting, called_by, waiting_for_next
from durable.runtime.forgotten import OURS
from durable.runtime.waiters import Flow

_Task = asyncio.Task[Any]
F = TypeVar("F", bound=Callable[..., Any])

#: Where a durable wait begins: what follows is the engine's.
_durable: set[CodeType] = set()
#: What limits a wait by a parameter of its own.
_LIMITING = (asyncio.wait_for.__code__, asyncio.wait.__code__)
#: How `with` is compiled.
_WITH = frozenset({"BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL"})
_COROUTINES = 0x20 | 0x80 | 0x100 | 0x200
#: Where the line is not that somebody has to change.
_BETWEEN = (OURS, os.path.dirname(asyncio.__file__) + os.sep, contextlib.__file__)
#: Managers in managers in managers.
_DEPTH_MAX = 10
#: How many objects are looked at to find the line.
SEARCHED_MAX = 1000
#: What leads from anything to everything, or to the coroutines further in.
_LEADING_AWAY = (type, ModuleType, FunctionType, CoroutineType, asyncio.Task, asyncio.AbstractEventLoop)

#: Whether code may limit what it awaits; None where no coroutine is left. By the code's id, beside the code itself.
_known: dict[int, tuple[CodeType, bool | None]] = {}


def durable_wait(function: F) -> F:
    """With this function a durable wait begins."""
    _durable.add(cast(FunctionType, function).__code__)
    return function


def place(frame: FrameType | None, end: CodeType, *, alone: bool) -> tuple[int, ...] | None:
    """What tells this wait from others: where the coroutines stand that run here, up to that of `end`.

    None where there can be no time-out around it: `alone` says that it is in the handler's own task.
    """
    may = not alone
    outer = frame
    while outer is not None and not may:  # the usual: a few frames, none of which can limit anything
        code = outer.f_code
        if code is end:
            return None
        known = _known.get(id(code))
        limits = _learn(code) if known is None else known[1]
        if limits is None:
            return None
        may = limits
        outer = outer.f_back
    return _stands(frame, end) if may else None


def _stands(frame: FrameType | None, end: CodeType) -> tuple[int, ...]:
    stands: list[int] = []
    while frame is not None:
        code = frame.f_code
        known = _known.get(id(code))
        if code is end or (_learn(code) if known is None else known[1]) is None:
            break
        stands += (id(code), frame.f_lasti)
        frame = frame.f_back
    return tuple(stands)


def _learn(code: CodeType) -> bool | None:
    may: bool | None = None
    if code.co_flags & _COROUTINES:
        may = code in _LIMITING or any(one.opname in _WITH for one in dis.get_instructions(code))
    if len(_known) > 4096:
        _known.clear()
    _known[id(code)] = code, may
    return may


def around(flows: Iterable[Flow], handler: _Task | None, timers: Iterable[asyncio.TimerHandle] = ()) -> str | None:
    """Which time-out is around the durable wait of one of these flows, if one is: "a Timeout at shop.py:7".

    Their tasks are suspended.

    `handler` is the task that all of them began with; who waits for that is none of its flows. `timers`: those that
    it has set.
    """
    harmless: set[_Task | DoneCallback] = set()
    aimed: dict[_Task, list[object]] = {}
    for task, source in aimed_at(timers):
        aimed.setdefault(task, []).append(source)
    for flow in flows:
        if flow is None or flow.done() or not _waits(flow):
            continue
        todo: list[tuple[_Task | DoneCallback, _Task | DoneCallback | None]] = [(flow, None)]
        seen: set[_Task | DoneCallback] = set()
        while todo:
            one, child = todo.pop()
            if one in seen:
                continue
            seen.add(one)
            if one not in harmless:
                if isinstance(one, DoneCallback):
                    found = list(_limits_added(one, set()))
                else:
                    found = list(_limits(one, aimed.get(one, ())))
                if not found:
                    harmless.add(one)
                for where, inside in found:
                    if child is None or (
                        one in set(awaiting(child, now=True)) if inside is None else child not in inside
                    ):
                        return where
            if one is not handler:
                todo.extend((parent, one) for parent in awaiting(one))
    return None


def _waits(flow: _Task | DoneCallback) -> bool:
    return isinstance(flow, DoneCallback) or any(frame.f_code in _durable for _, frame in _chain(flow))


def _chain(task: _Task) -> Iterator[tuple[Any, FrameType]]:
    """The coroutines and generators of a task, from its first one on, with their frames."""
    link: Any = task.get_coro()
    while link is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(link, f"{kind}_frame", None)
            if frame is not None:
                yield link, frame
                if frame.f_code in _durable:
                    return
                link = getattr(link, "cr_await" if kind == "cr" else "gi_yieldfrom" if kind == "gi" else "ag_await")
                break
        else:  # an `asend()`, or the iterator of a future
            link = next((one for one in get_referents(link) if hasattr(one, "ag_frame")), None)


def _limits_added(flow: _Task | DoneCallback, outside: set[_Task]) -> Iterator[tuple[str, set[_Task] | None]]:
    """The time-outs that came with what it calls when it is done, in the same form as `_limits`."""
    for callback in called_by(flow):
        if _completes(callback):
            lines = (_line(one) for one in _iterating(callback))
            yield f"an asyncio.as_completed(timeout=…){_at(next(lines, None))}", outside


def _limits(task: _Task, aimed: Iterable[object]) -> Iterator[tuple[str, set[_Task] | None]]:
    """The time-outs that it is in: where, and which tasks of groups do not depend on them, being made further out.

    `aimed`: what has set a timer for this task. Where no frame has that, it is not known how far out it stands.
    """
    outside: set[_Task] = set()
    shown: list[object] = []
    scope = _scope_of(task)
    if scope is not None:
        host = getattr(scope, "_host_task", None) or task
        yield f"a deadline of anyio{_at(_line_within(scope, host))}", outside
    yield from _limits_added(task, outside)
    for link, frame in _chain(task):
        code = frame.f_code
        if code in _LIMITING and frame.f_locals.get("timeout") is not None:
            yield f"an asyncio.{code.co_name}(timeout=…){_at(_line(task, frame))}", set(outside)
        for one in get_referents(link):
            for manager in _managers(one, 0):
                if isinstance(manager, asyncio.TaskGroup):
                    outside.update(getattr(manager, "_tasks", ()))
                    continue
                shown.append(manager)
                if _limited(manager):
                    yield f"a {type(manager).__name__} at {code.co_filename}:{frame.f_lineno}", set(outside)
    for source in aimed:
        if not any(source is one for one in shown):
            yield f"{_called(source)}{_at(_line_within(source, task))}", None


def _called(source: object) -> str:
    kind = type(source)
    return f"a {kind.__name__}" if _is_limit(kind) else "a timer that cancels it"


def _at(line: str | None) -> str:
    return "" if line is None else f" at {line}"


def _line(task: _Task, end: FrameType | None = None) -> str | None:
    """The user's innermost line that waits in a task, or the one that waits for what is done in the frame `end`."""
    line: str | None = None
    for _, frame in _chain(task):
        if frame is end and line is not None:
            break
        if _is_users(frame):
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return line


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith(_BETWEEN) and f"{os.sep}anyio{os.sep}" not in file


def _line_within(limit: object, task: _Task) -> str | None:
    """The line that waits in the block of a time-out, in this task."""
    for link, frame in _chain(task):
        if _is_users(frame) and not isinstance(limit, asyncio.Task) and _leads_to(link, limit):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return _line(task)


def _leads_to(coroutine: Any, limit: object) -> bool:
    """Whether something that a coroutine has, or is in the block of, has this time-out, however far behind."""
    todo, seen = deque(get_referents(coroutine)), {id(coroutine)}
    while todo and len(seen) < SEARCHED_MAX:
        one = todo.popleft()
        if one is limit:
            return True
        if id(one) not in seen and not issubclass(type(one), _LEADING_AWAY):
            seen.add(id(one))
            todo.extend(get_referents(one))
    return False


def _iterating(callback: Any) -> Iterator[_Task]:
    """The tasks that wait for the next result of an `as_completed`."""
    for getter in waiting_for_next(callback):
        yield from awaiting(getter)


def _completes(callback: Any) -> bool:
    """Whether it is `as_completed` with a time-out that waits for a task with this callback."""
    owner = getattr(callback, "__self__", None)
    if type(owner).__name__ == "_AsCompletedIterator":  # from Python 3.13 on
        return getattr(owner, "_timeout_handle", None) is not None
    if not getattr(callback, "__qualname__", "").startswith("as_completed.<locals>"):
        return False
    return any(type(one).__name__ == "TimerHandle" for one in held_by(callback))  # uvloop has its own


def _managers(one: Any, depth: int) -> Iterator[Any]:
    """The context managers that something on a coroutine's stack stands for."""
    kind, entered = type(one), False
    if kind is MethodType:
        if one.__func__.__name__ not in ("__aexit__", "__exit__", "_exit_wrapper"):
            return
        one, entered = one.__self__, True
        kind = type(one)
    if depth > _DEPTH_MAX:
        return
    if issubclass(kind, AsyncExitStack | ExitStack):
        for _, callback in list(getattr(one, "_exit_callbacks", ())):
            yield from _managers(callback, depth + 1)
    elif hasattr(kind, "_recreate_cm"):  # made by `@contextmanager`
        for inner in get_referents(one.gen):
            yield from _managers(inner, depth + 1)
    elif (entered and kind is asyncio.TaskGroup) or _is_limit(kind):
        yield one


def _is_limit(kind: type) -> bool:
    return issubclass(kind, asyncio.Timeout) or (
        kind.__name__ == "Timeout" and kind.__module__.startswith("async_timeout")
    )


def _limited(manager: Any) -> bool:
    """Whether a time-out is entered and has an end."""
    if isinstance(manager, asyncio.Timeout):
        state = getattr(getattr(manager, "_state", None), "name", "ENTERED")
        return state == "ENTERED" and manager.when() is not None
    return getattr(manager, "deadline", None) is not None


def _scope_of(task: _Task) -> Any:
    """The cancel scope of anyio with a deadline that holds for the task, or None: they are inherited."""
    backend = sys.modules.get("anyio._backends._asyncio")
    state = getattr(backend, "_task_states", {}).get(task)
    scope = getattr(state, "cancel_scope", None)
    while scope is not None:
        if scope.deadline != inf:
            return scope
        if scope.shield:
            return None
        scope = getattr(scope, "_parent_scope", None)
    return None
