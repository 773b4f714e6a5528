"""The handlers an engine knows, with everything about them resolved."""

import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from durable.context import (
    Context,
    ObjectContext,
    SharedObjectContext,
    SharedWorkflowContext,
    WorkflowContext,
)
from durable.core.ids import READABLE, IdSpan, claimed_id
from durable.core.invocation import PATCH_STATE, Caller, Flavor, Submission
from durable.core.retry import RetryPolicy
from durable.errors import (
    DeclarationError,
    InvalidRequestError,
    NotFoundError,
    SerializationError,
    StorageCorruptError,
    TerminalError,
    ValueTooLargeError,
)
from durable.runtime.observer import Observer
from durable.serde import Serde, decoded, readable, serde_for
from durable.service import Handler, Service, Settings, VirtualObject, Workflow, check_homeless
from durable.signature import REQUIRED

CONTEXTS: dict[Flavor, type[Context]] = {
    Flavor.SERVICE: Context,
    Flavor.EXCLUSIVE: ObjectContext,
    Flavor.SHARED: SharedObjectContext,
    Flavor.WORKFLOW: WorkflowContext,
    Flavor.WORKFLOW_SHARED: SharedWorkflowContext,
}
#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_PLAIN, _WORKFLOW = Flavor.SERVICE, Flavor.WORKFLOW
KEY_LENGTH_MAX = 64 * 1024
#: How many bytes a value may have, unless `max_value_size` says otherwise.
VALUE_SIZE_MAX = 64 * 1024 * 1024
#: The header in which the built-in handler behind `Engine.patch_state` gets the version that it is to replace.
EXPECTED_VERSION = "expected-version"
_settings = msgspec.json.Decoder(Settings)


class Registered(msgspec.Struct, frozen=True, eq=False):
    """One handler, ready to be invoked."""

    service: str
    name: str
    flavor: Flavor
    fn: Callable[..., Awaitable[Any]]
    input: Serde[Any]
    output: Serde[Any]
    has_input: bool
    default: Any
    settings: Settings
    policy: RetryPolicy
    context: type[Context]
    #: How many bytes a value may have.
    value_size_max: int

    @property
    def keyed(self) -> bool:
        """Whether it runs on a key."""
        return self.flavor is not _PLAIN

    def encode_input(self, arg: Any) -> bytes:
        """The stored form of an argument. Raises `SerializationError`, `InvalidRequestError`."""
        if not self.has_input:
            if arg is not None:
                raise InvalidRequestError(
                    f"{self.service}/{self.name} takes no argument, but was given one of type {type(arg).__name__}"
                )
            return b""
        if arg is None and self.default is not REQUIRED:
            return b""
        door = f"the argument of {self.service}/{self.name}"
        return readable(self.input, arg, door, self.value_size_max)  # what the handler could not read is refused

    def nothing(self) -> bytes | None:
        """The stored form of an input that is left out: for its default, nothing, or null, as the type has it.

        None where it must be sent.
        """
        if not self.has_input or self.default is not REQUIRED:
            return b""
        for data in (b"", b"null"):
            with suppress(Exception):
                self.input.decode(data)
                return data
        return None

    def encode_result(self, value: Any) -> bytes:
        """The stored form of what the handler gave. Raises `SerializationError`."""
        door = f"the result of {self.service}/{self.name}"
        return readable(self.output, value, door, self.value_size_max)  # else it would fail at whoever calls

    def arguments(self, data: bytes) -> tuple[Any, ...]:
        """What to pass after the context. Raises `SerializationError`."""
        if not self.has_input:
            return ()
        if data == b"" and self.default is not REQUIRED:
            return (self.default,)
        return (decoded(self.input.decode, data, f"the argument of {self.service}/{self.name}"),)

    def submission(
        self,
        id: str,
        data: bytes,
        *,
        key: str | None,
        headers: dict[str, str],
        idempotency_key: str | None,
        caller: Caller | None,
        due_at: int | None,
        id_span: IdSpan,
        observer: Observer | None,
        recorded: bool = False,
    ) -> Submission:
        """Everything that is fixed when an invocation of this handler is accepted; `recorded` as in `check_text`.

        The observer is told that it is asked for, and may add to its headers.
        """
        check_key(self, key, recorded=recorded)
        if self.flavor is _WORKFLOW:
            if idempotency_key is not None:
                raise InvalidRequestError(f"{self.service}/{self.name}: a workflow's key is its idempotency key")
            id = claimed_id(self.service, key, self.name, "", span=id_span)
        elif idempotency_key is not None:
            check_idempotency_key(idempotency_key, recorded=recorded)
            id = claimed_id(self.service, key, self.name, idempotency_key, span=id_span)
        completion_ms, journal_ms = self.retentions_ms(by_idempotency_key=idempotency_key is not None)
        submission = Submission(
            id,
            self.service,
            self.name,
            key,
            self.flavor,
            data,
            headers,
            idempotency_key,
            caller,
            due_at,
            completion_ms,
            journal_ms,
        )
        if observer is not None:
            observer.invocation_asked(submission)
        return submission

    def retentions_ms(self, *, by_idempotency_key: bool) -> tuple[int, int]:
        """For how long results and journals of its invocations are kept."""
        settings = self.settings
        journal_ms = completion_ms = settings.journal_retention_ms or 0
        if self.flavor is _WORKFLOW:
            completion_ms = settings.workflow_completion_retention_ms or 0
        elif by_idempotency_key:
            completion_ms = settings.idempotency_retention_ms or 0
        return completion_ms, min(journal_ms, completion_ms)


class Registry:
    """Handlers by service and name."""

    def __init__(self, services: Iterable[object], defaults: Settings, value_size_max: int = VALUE_SIZE_MAX) -> None:
        #: How many bytes a value may have.
        self.value_size_max = value_size_max
        #: Within what the ids are that keys determine: the file's, once it is open.
        self.id_span = READABLE
        self._handlers: dict[tuple[str, str], Registered] = {}
        #: The handlers each service declares, by its name; built-in ones are not among them.
        self.declared: dict[str, list[Handler[Any, Any]]] = {}
        self._defaults = defaults
        #: What `Engine.configure` has set, by service.
        self.configured: dict[str, Settings] = {}
        for service in services:
            for handler in _handlers_of(service):
                self._add(handler)

    def __iter__(self) -> Any:
        return iter(self._handlers.values())

    def get(self, service: str, name: str) -> Registered | None:
        """The handler, if this engine has it; state can be patched of services that it has no more, too."""
        found = self._handlers.get((service, name))
        if found is None and name == PATCH_STATE:
            return _patcher(service, self._defaults, self.value_size_max)
        return found

    def find(self, target: Handler[Any, Any] | str) -> Registered:
        """The handler a call names. Raises `NotFoundError`, naming what there is."""
        if isinstance(target, str):
            service, slash, name = target.partition("/")
            if not slash or not service or not name or "/" in name:
                raise InvalidRequestError(f"a target is a handler or 'service/handler', not {target!r}")
        elif isinstance(target, Handler):
            service, name = target.service_name, target.name
        else:
            raise InvalidRequestError(
                f"a target is a function decorated with @handler or 'service/handler', not {target!r}"
            )
        found = self._handlers.get((service, name))
        if found is None:
            known = (
                ", ".join(sorted(f"{service}/{name}" for service, name in self._handlers if name[0] != "$")) or "none"
            )
            raise NotFoundError(
                f"this engine has no handler {service}/{name}; add it to Engine(services=[...]). It has: {known}"
            )
        return found

    def has(self, service: str, *flavors: Flavor) -> bool:
        """Whether there is such a service, with a handler of one of these flavors (of any, where none is given)."""
        return any(one.service == service and (not flavors or one.flavor in flavors) for one in self)

    def on_key_reuse(self, service: str, name: str) -> str | None:
        """What an idempotency key gets that comes with something else: as the handler says, or else the engine."""
        found = self.get(service, name)
        return (self._defaults if found is None else found.settings).on_key_reuse

    def forget_configuration(self) -> None:
        """Nothing is set at run time any more: another life of the engine reads anew what is."""
        configured, self.configured = self.configured, {}
        for service in configured:
            self._merge_again(service)

    def configure(self, service: str, text: str) -> None:
        """Have options that were set at run time override what the class says, for invocations from now on."""
        try:
            self.configured[service] = _settings.decode(text)
        except msgspec.MsgspecError as error:
            raise StorageCorruptError(
                f"the options that were set for {service} (engine.configure) cannot be read: {error}. To go on with "
                f"what the code says, delete them: DELETE FROM settings WHERE service = {service!r}. A backup brings "
                "them back: durable.restore(backup, path)"
            ) from error
        self._merge_again(service)

    def _merge_again(self, service: str) -> None:
        for handler in self.declared.get(service, ()):
            name = (service, handler.name)
            settings = self._merged(handler)
            self._handlers[name] = msgspec.structs.replace(self._handlers[name], settings=settings)

    def shortest_retention_ms(self) -> int:
        """The shortest time that anything is kept after completion, but for what is not kept at all."""
        kept = [
            ms
            for handler in self
            for ms in (
                handler.settings.journal_retention_ms,
                handler.settings.idempotency_retention_ms,
                handler.settings.workflow_completion_retention_ms,
            )
            if ms
        ]
        return min(kept, default=0)

    def effective(self, service: str, declared: Settings) -> Settings:
        """What holds for handlers that say nothing themselves, where their class says `declared`."""
        return self.configured.get(service, Settings()).over(declared.over(self._defaults))

    def _merged(self, handler: Handler[Any, Any]) -> Settings:
        declared = handler.owner.settings() if handler.owner is not None else Settings()
        return handler.settings.over(self.effective(handler.service_name, declared))

    def _add(self, handler: Handler[Any, Any]) -> None:
        signature = handler.signature()
        settings = self._merged(handler)
        fn = handler.fn
        if handler.owner is not None:
            fn = fn.__get__(handler.instance, handler.owner)
        service, name = handler.service_name, handler.name
        check_names(service, name)
        others = self.declared.get(service)
        if others and others[0].owner is not handler.owner:
            raise DeclarationError(
                f"two declarations are called {service}: a service is one class, or functions; give one of them "
                "another name= (a class) or service= (a function)"
            )
        if (service, name) in self._handlers:
            raise DeclarationError(
                f"two handlers are called {service}/{name}: give one of them another name= or service="
            )
        if handler.owner is not None and issubclass(handler.owner, Workflow) and handler.shared and name == "run":
            raise DeclarationError(f"{service}/run: a workflow's run handler cannot be shared")
        _check_flavor(handler)
        self.declared.setdefault(service, []).append(handler)
        if handler.flavor is not Flavor.SERVICE and (service, PATCH_STATE) not in self._handlers:
            self._handlers[service, PATCH_STATE] = _patcher(service, settings, self.value_size_max)
        self._handlers[service, name] = Registered(
            service,
            name,
            handler.flavor,
            fn,
            _serde_of(signature.input, lambda: f"{service}/{name}: {_called(handler)} cannot be stored"),
            _serde_of(signature.output, lambda: f"{service}/{name}: what it returns cannot be stored"),
            signature.has_input,
            signature.default,
            settings,
            settings.retry,
            CONTEXTS[handler.flavor],
            self.value_size_max,
        )


def _called(handler: Handler[Any, Any]) -> str:
    """A handler's input."""
    parameters = list(inspect.signature(handler.fn).parameters)[1 if handler.owner is None else 2 :]
    return f"its input {parameters[0]!r}" if parameters else "its input"


def _serde_of(annotation: Any, wrong: Callable[[], str]) -> Serde[Any]:
    try:
        return serde_for(annotation)
    except SerializationError as error:
        raise DeclarationError(f"{wrong()}: {error}") from error


async def _patch_state(ctx: ObjectContext, state: dict[str, bytes]) -> None:
    """Replace the whole state of a key. An exclusive handler like any other: it waits for its turn."""
    expected = ctx.request.headers.get(EXPECTED_VERSION)
    if expected is not None and await ctx.state_version() != expected:
        raise TerminalError(f"the state of {ctx.request.target.rpartition('/')[0]} has changed: read it again", 409)
    ctx.clear_all()
    for name, value in state.items():
        ctx.set_raw(name, value)


def _patcher(service: str, settings: Settings, value_size_max: int) -> Registered:
    kept = msgspec.structs.replace(settings, journal_retention_ms=0)
    return Registered(
        service,
        PATCH_STATE,
        Flavor.EXCLUSIVE,
        _patch_state,
        serde_for(dict[str, bytes]),
        serde_for(None),
        True,
        REQUIRED,
        kept,
        settings.retry,
        ObjectContext,
        value_size_max,
    )


def _check_flavor(handler: Handler[Any, Any]) -> None:
    """Whether `shared` means something, and it gets the context it is annotated with. Raises `DeclarationError`."""
    name, flavor = f"{handler.service_name}/{handler.name}", handler.flavor
    if handler.shared and flavor is Flavor.SERVICE:
        raise DeclarationError(
            f"{name}: shared=True is for handlers of a VirtualObject, which run one at a time on a key; those of a "
            "plain service always run beside each other: leave it out"
        )
    given, wanted = CONTEXTS[flavor], handler.signature().context
    wanted = typing.get_origin(wanted) or wanted
    if wanted is Any or not inspect.isclass(wanted) or getattr(wanted, "_is_protocol", False):
        return
    if issubclass(given, wanted):
        return
    if any(wanted is one for one in CONTEXTS.values()):
        raise DeclarationError(
            f"{name}: its context is annotated as {wanted.__name__}, but {_KINDS[flavor]} gets a {given.__name__}: "
            f"annotate it so, or {_WAYS[flavor]}"
        )
    own = "self, " if handler.owner is not None else ""
    raise DeclarationError(
        f"{name}: the first parameter{' after self' if own else ''} is the context, but is annotated as "
        f"{wanted.__name__}: write `async def {handler.fn.__name__}({own}ctx: {given.__name__}, …)`"
    )


_KINDS = {
    Flavor.SERVICE: "a plain service's handler",
    Flavor.EXCLUSIVE: "a virtual object's handler",
    Flavor.SHARED: "a virtual object's shared handler",
    Flavor.WORKFLOW: "a workflow's run handler",
    Flavor.WORKFLOW_SHARED: "a workflow's shared handler (each but `run`)",
}
_WAYS = {
    Flavor.SERVICE: "make it a method of a VirtualObject or a Workflow, which have state",
    Flavor.EXCLUSIVE: "make it a method of a Workflow, which has promises",
    Flavor.SHARED: "leave shared=True out to let it change state",
    Flavor.WORKFLOW: "do in another kind of service what only that one can",
    Flavor.WORKFLOW_SHARED: "change state in `run`, which may wait for a promise that this handler resolves",
}


def _handlers_of(service: object) -> list[Handler[Any, Any]]:
    if isinstance(service, Handler):
        if service.owner is not None and service.instance is None:
            raise DeclarationError(f"services: pass an instance of {service.owner.__name__}, not its handler")
        return [service]
    if inspect.isclass(service) and issubclass(service, Service | VirtualObject | Workflow):
        raise DeclarationError(f"services: pass an instance, {service.__name__}(...), not the class")
    if not isinstance(service, Service | VirtualObject | Workflow):
        check_homeless(type(service))
        raise DeclarationError(
            f"services: {service!r} is neither a function decorated with @handler nor an instance of a Service, "
            "VirtualObject or Workflow"
        )
    handlers = [handler.__get__(service, type(service)) for handler in type(service).handlers()]
    if not handlers:
        raise DeclarationError(f"services: {type(service).__name__} has no method decorated with @handler")
    if isinstance(service, Workflow) and not any(handler.name == "run" for handler in handlers):
        raise DeclarationError(f"services: the workflow {type(service).__name__} has no handler `run`")
    return handlers


def check_names(service: str, handler: str) -> None:
    """Whether a service and a handler can be called so. Raises `DeclarationError`.

    Without a slash, for both are told apart by one wherever they are written as one text.
    """
    for what, name in (("service", service), ("handler", handler)):
        try:
            check_text(f"{what}'s name", name)
        except InvalidRequestError as error:
            raise DeclarationError(f"{what} {name!r}: {error}") from None
        if not name or "/" in name:
            raise DeclarationError(
                f"a {what} is called {name!r}: a name has one character at least and no '/', because a target is "
                "written service/handler; give it another name= or service="
            )


def check_key(handler: Registered, key: str | None, *, recorded: bool = False) -> None:
    """Whether the handler runs on a key, and this is one. Raises `InvalidRequestError`."""
    if handler.keyed and key is None:
        raise InvalidRequestError(f"{handler.service}/{handler.name} runs on a key: pass key=...")
    if not handler.keyed and key is not None:
        raise InvalidRequestError(f"{handler.service}/{handler.name} belongs to a plain service: it has no key")
    if key is not None:
        check_text("key", key, recorded=recorded)


def check_headers(headers: Mapping[str, str] | None, size_max: int, *, recorded: bool = False) -> dict[str, str]:
    """Headers as they are stored. Raises `InvalidRequestError`, and `ValueTooLargeError` for too much of them."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidRequestError(f"headers takes a mapping of names to values, not {type(headers).__name__}")
    with suppress(TypeError):  # what is no string is named below
        text = "".join((*headers, *headers.values()))
        if text.isascii() and "\0" not in text and len(text) <= min(KEY_LENGTH_MAX, size_max):
            return dict(headers)
    for name, value in headers.items():
        check_text("header name", name, recorded=recorded)
        check_text(f"header {name}", value, recorded=recorded)
    size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
    if size > size_max:
        raise ValueTooLargeError(f"the set of {len(headers)} headers", size, size_max)
    return dict(headers)


def check_idempotency_key(key: str, *, recorded: bool = False) -> None:
    """Whether text can be an idempotency key; `recorded` as in `check_text`. Raises `InvalidRequestError`.

    An empty one would make one request of all that have none: it is what a variable holds that was never set.
    """
    if key == "" and not recorded:
        raise InvalidRequestError("the idempotency key is empty: give one, or leave it out")
    check_text("idempotency key", key, recorded=recorded)


def check_text(what: str, text: str, *, recorded: bool = False) -> None:
    """Whether text can name something: a string of valid Unicode without NUL, up to 64 KiB.

    NUL separates the parts of what ids are made of (`claimed_id`), and passes through neither HTTP nor a command
    line. What is `recorded` already, in a file that was written when NUL was not refused yet, stays what it is.
    Raises `InvalidRequestError`.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"the {what} must be a string, not {type(text).__name__}")
    if "\0" in text and not recorded:
        raise InvalidRequestError(f"the {what} {text[:40]!r} has a NUL character: leave it out")
    try:
        length = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"the {what} is not valid Unicode: {error.reason}") from None
    if length > KEY_LENGTH_MAX:
        raise InvalidRequestError(f"the {what} has {length} bytes; at most {KEY_LENGTH_MAX} are allowed")
