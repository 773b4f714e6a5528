"""What authors declare: handlers, and the services, virtual objects and workflows they belong to.

A decorated handler stays an ordinary callable: `await checkout(fake_ctx, order)` in a unit test runs its body.
"""

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Generic, Literal, Protocol, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from durable.core.duration import Duration, parse
from durable.core.invocation import Flavor
from durable.core.retry import RetryPolicy
from durable.errors import DeclarationError, SerializationError
from durable.signature import Signature, signature_of

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class AnyContext(Protocol):
    """What makes a parameter the context parameter of a handler."""

    @property
    def request(self) -> Any:
        """The request the handler answers."""
        ...


C = TypeVar("C", bound=AnyContext)
C_contra = TypeVar("C_contra", bound=AnyContext, contravariant=True)
I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)


class Options(TypedDict, total=False):
    """What can be set on a handler, on its class, or (most of it) on the engine; the nearest setting wins."""

    #: Whether it may be called from outside; other handlers always may. Default True.
    public: bool
    #: Merged field by field: handler over class over engine.
    retry: RetryPolicy
    #: How long a handler may only wait before it is suspended. Default 1 minute.
    inactivity_timeout: Duration
    #: How long after that a handler that does not yield may go on before it is interrupted. Default 10 minutes.
    abort_timeout: Duration
    #: How long the journal of a completed invocation is kept. Default 1 day.
    journal_retention: Duration
    #: How long the result of an invocation with an idempotency key is kept. Default 1 day.
    idempotency_retention: Duration
    #: How long a workflow's result, state and promises are kept. Default 1 day.
    workflow_completion_retention: Duration
    #: What happens when an idempotency key comes with another input: "answer" gives the result of the first input and
    #: logs it, "refuse" raises a `ConflictError` (409). Default "answer".
    on_key_reuse: Literal["answer", "refuse"]
    #: Free text for operators.
    metadata: Mapping[str, str]


class Configuration(TypedDict, total=False):
    """What `Engine.configure` sets: see `Options`. None gives the decision back to the class."""

    public: bool | None
    idempotency_retention: Duration | None
    journal_retention: Duration | None
    workflow_completion_retention: Duration | None
    inactivity_timeout: Duration | None
    abort_timeout: Duration | None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`Options` after validation, in milliseconds; None where nothing was said."""

    public: bool | None = None
    retry: RetryPolicy = RetryPolicy()
    inactivity_timeout_ms: int | None = None
    abort_timeout_ms: int | None = None
    journal_retention_ms: int | None = None
    idempotency_retention_ms: int | None = None
    workflow_completion_retention_ms: int | None = None
    on_key_reuse: str | None = None
    metadata: Mapping[str, str] = {}

    def over(self, base: "Settings") -> "Settings":
        """These settings where they say something, `base` elsewhere."""
        if self == NOTHING_SAID:  # as most handlers and many classes
            return base
        merged = {
            name: getattr(base, name) if getattr(self, name) is None else getattr(self, name)
            for name in self.__struct_fields__
        }
        merged["retry"] = self.retry.merged_over(base.retry)
        merged["metadata"] = {**base.metadata, **self.metadata}
        return Settings(**merged)


NOTHING_SAID: Final = Settings()


def settings_of(options: Options, where: str) -> Settings:
    """Validated options. Raises `DeclarationError` naming the option and the place it was written."""
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name in ("public", "retry", "metadata"):
            expected: type = {"public": bool, "retry": RetryPolicy, "metadata": Mapping}[name]
            if not isinstance(value, expected):
                raise DeclarationError(f"{where}: {name} must be a {expected.__name__}, not {value!r}")
            if isinstance(value, Mapping) and not all(isinstance(text, str) for text in (*value, *value.values())):
                raise DeclarationError(f"{where}: metadata must map strings to strings, not {value!r}")
            values[name] = value
        elif name == "on_key_reuse":
            values[name] = checked_reuse(value, where)
        elif name in Options.__annotations__:
            try:
                values[f"{name}_ms"] = parse(cast(Duration, value))
            except ValueError as error:
                raise DeclarationError(f"{where}: {name}: {error}") from None
        else:
            known = ", ".join(Options.__annotations__)
            raise DeclarationError(f"{where}: unknown option {name!r}; there are: {known}")
    return Settings(**values)


def checked_reuse(value: object, where: str) -> str:
    """One of the two. Raises `DeclarationError`."""
    if value not in ("answer", "refuse"):
        raise DeclarationError(f"{where}: on_key_reuse must be 'answer' or 'refuse', not {value!r}")
    return str(value)


class Handler(Generic[I_contra, O_co]):
    """A function that runs durably. Made by `@handler`; call targets name it (`ctx.call(Parcels.ship, …)`)."""

    def __init__(
        self, fn: Callable[..., Awaitable[O_co]], name: str | None, shared: bool, settings: Settings
    ) -> None:
        if not inspect.isfunction(fn) or not inspect.iscoroutinefunction(fn):
            raise DeclarationError(
                f"@handler {_shown(fn)}: a handler is an `async def` function taking a context{_way(fn)}"
            )
        self.fn: Callable[..., Awaitable[O_co]] = fn
        self.name = name or fn.__name__
        self.shared = shared
        self.settings = settings
        self.owner: type[Any] | None = None
        self.instance: object | None = None
        #: The service of a free function; a method's is its class.
        self.service = _module_name(fn)
        self.documentation = inspect.getdoc(fn) or ""
        self.__doc__ = fn.__doc__
        self.__name__ = fn.__name__
        self.__wrapped__ = fn
        #: Once they were read, by how many parameters come before the input; shared with those that are bound.
        self._signatures: dict[int, Signature] = {}

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = (
            owner  # which is checked later: what is raised here comes out as a RuntimeError before Python 3.12
        )

    @overload
    def __get__(self, instance: None, owner: type) -> "Handler[I_contra, O_co]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> "Handler[I_contra, O_co]": ...
    def __get__(self, instance: object | None, owner: type) -> "Handler[I_contra, O_co]":
        """The handler as its class, or one instance of it, has it."""
        bound = cast("Handler[I_contra, O_co]", object.__new__(Handler))
        bound.__dict__.update(self.__dict__)
        bound.owner, bound.instance = owner, instance
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[O_co]:
        """Run the body as an ordinary coroutine function."""
        return self.fn(*args, **kwargs) if self.instance is None else self.fn(self.instance, *args, **kwargs)

    @property
    def service_name(self) -> str:
        """The service it belongs to."""
        if self.owner is None:
            return self.service
        check_homeless(self.owner)
        return cast(str, self.owner.service_name())

    @property
    def flavor(self) -> Flavor:
        """Exclusive, shared, a workflow's run, or a plain service handler."""
        if self.owner is None or issubclass(self.owner, Service):
            return Flavor.SERVICE
        if issubclass(self.owner, VirtualObject):
            return Flavor.SHARED if self.shared else Flavor.EXCLUSIVE
        return Flavor.WORKFLOW if self.name == "run" else Flavor.WORKFLOW_SHARED

    def signature(self) -> Signature:
        """The annotations of its context, input and output. Raises `DeclarationError`."""
        skip = 1 if self.owner is None else 2
        try:
            if skip not in self._signatures:
                self._signatures[skip] = signature_of(self.fn, skip=skip)
        except (SerializationError, TypeError) as error:
            raise DeclarationError(f"handler {self.service_name}/{self.name}: {error}") from error
        return self._signatures[skip]

    def __repr__(self) -> str:
        return f"<handler {self.service_name}/{self.name}>"


class _Declared:
    """What the three kinds of service classes share."""

    _settings = Settings()
    _service_name: str | None = None

    def __init_subclass__(cls, *, name: str | None = None, **options: Unpack[Options]) -> None:
        super().__init_subclass__()
        cls._service_name = name
        if cls.__bases__ != (_Declared,):  # not those three themselves
            _check_class(cls)
        own = settings_of(options, f"class {cls.__name__}")
        cls._settings = own.over(cls._settings)

    @classmethod
    def service_name(cls) -> str:
        """The name under which it is registered: the class's own, unless `name=` says otherwise."""
        return cls._service_name or cls.__name__

    @classmethod
    def handlers(cls) -> Iterator[Handler[Any, Any]]:
        """Its handlers, base classes' first."""
        found: dict[str, None] = {}
        for base in reversed(cls.__mro__):
            found.update(dict.fromkeys(attribute for attribute, value in vars(base).items() if _is_handler(value)))
        for attribute in found:
            yield getattr(cls, attribute)

    @classmethod
    def settings(cls) -> Settings:
        """What the class statement says."""
        return cls._settings


class Service(_Declared):
    """A group of stateless handlers. Set options in the class statement: `class Mail(Service, retry=…)`."""


class VirtualObject(_Declared):
    """Handlers with durable state for each key; one exclusive handler at a time runs on a key."""


class Workflow(_Declared):
    """A `run` handler that executes once per key, and shared handlers that query and signal it."""


class _MayBeEmpty(Protocol[C_contra, I_contra, O_co]):
    """A function whose input has a default."""

    def __call__(self, ctx: C_contra, arg: I_contra = ..., /) -> Awaitable[O_co]: ...


class _MethodMayBeEmpty(Protocol[C_contra, I_contra, O_co]):
    """The same of a class."""

    def __call__(self, this: Any, ctx: C_contra, arg: I_contra = ..., /) -> Awaitable[O_co]: ...


@overload
def handler(fn: _MayBeEmpty[C, I, O], /) -> Handler[I | None, O]: ...
@overload
def handler(fn: _MethodMayBeEmpty[C, I, O], /) -> Handler[I | None, O]: ...
@overload
def handler(fn: Callable[[C], Awaitable[O]], /) -> Handler[None, O]: ...
@overload
def handler(fn: Callable[[C, I], Awaitable[O]], /) -> Handler[I, O]: ...
@overload
def handler(fn: Callable[[Any, C], Awaitable[O]], /) -> Handler[None, O]: ...
@overload
def handler(fn: Callable[[Any, C, I], Awaitable[O]], /) -> Handler[I, O]: ...
@overload
def handler(
    *, name: str | None = None, service: str | None = None, shared: bool = False, **options: Unpack[Options]
) -> "_Decorator": ...
def handler(
    fn: Callable[..., Awaitable[Any]] | None = None,
    /,
    *,
    name: str | None = None,
    service: str | None = None,
    shared: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Make an `async def` function durable.

    The service of a free function is named after its module, unless `service=` names another; that of a method is its
    class. With `shared=True`, a virtual object's handler runs beside the exclusive one, and can only read state. (All
    handlers of a workflow are shared, except `run`.) Raises `DeclarationError`.
    """

    def declare(function: Callable[..., Awaitable[Any]]) -> Handler[Any, Any]:
        declared: Handler[Any, Any] = Handler(
            function, name, shared, settings_of(options, f"@handler {getattr(function, '__qualname__', function)}")
        )
        if service is not None:
            declared.service = service
        return declared

    return declare if fn is None else declare(fn)


class _Decorator(Protocol):
    """`@handler(...)` with options: the same overloads as without."""

    @overload
    def __call__(self, fn: _MayBeEmpty[C, I, O], /) -> Handler[I | None, O]: ...
    @overload
    def __call__(self, fn: _MethodMayBeEmpty[C, I, O], /) -> Handler[I | None, O]: ...
    @overload
    def __call__(self, fn: Callable[[C], Awaitable[O]], /) -> Handler[None, O]: ...
    @overload
    def __call__(self, fn: Callable[[C, I], Awaitable[O]], /) -> Handler[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[Any, C], Awaitable[O]], /) -> Handler[None, O]: ...
    @overload
    def __call__(self, fn: Callable[[Any, C, I], Awaitable[O]], /) -> Handler[I, O]: ...


def _is_handler(value: object) -> bool:
    return isinstance(value, Handler)


_HOME = "Service, VirtualObject or Workflow"


def check_homeless(owner: type) -> None:
    """Whether handlers of this class belong to a service. Raises `DeclarationError`."""
    homeless = None if issubclass(owner, _Declared) else next(_handler_names(owner), None)
    if homeless is not None:
        raise DeclarationError(
            f"@handler {owner.__name__}.{homeless}: a class with handlers derives from {_HOME}: write "
            f"`class {owner.__name__}(Service)`"
        )


def _check_class(cls: "type[_Declared]") -> None:
    """Whether each of its handlers is one that can be called as it is written. Raises `DeclarationError`."""
    kinds = [kind.__name__ for kind in (Service, VirtualObject, Workflow) if kind in cls.__mro__]
    if len(kinds) > 1:
        raise DeclarationError(f"class {cls.__name__} is both a {' and a '.join(kinds)}: derive it from one of them")
    for base in cls.__mro__:
        check_homeless(base)
    for name, value in vars(cls).items():
        if isinstance(value, staticmethod | classmethod) and _is_handler(value.__func__):
            raise DeclarationError(
                f"@handler {cls.__name__}.{name} is a {type(value).__name__}: a handler of a class is an ordinary "
                f"method; write `async def {name}(self, ctx, …)`, or make it a function outside of the class"
            )
        hides = next((base for base in cls.__mro__[1:] if _is_handler(vars(base).get(name))), None)
        if hides is not None and not _is_handler(value):
            raise DeclarationError(
                f"{cls.__name__}.{name} hides the handler {hides.__name__}.{name}: decorate it with @handler, too, "
                "which takes its place, or give it another name"
            )


def _handler_names(cls: type) -> Iterator[str]:
    return (name for base in cls.__mro__ for name, value in vars(base).items() if _is_handler(value))


def _shown(fn: object) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))


def _way(fn: object) -> str:
    """What to write instead of what cannot be a handler."""
    if isinstance(fn, functools.partial):
        inner = getattr(fn.func, "__name__", "it")
        return f", not a functools.partial: write `async def name(ctx, …): return await {inner}(…)`"
    if isinstance(fn, staticmethod | classmethod):
        return (
            f", not a {type(fn).__name__}: write an ordinary method (`async def name(self, ctx, …)`), or a function "
            "outside of the class"
        )
    if inspect.isasyncgenfunction(fn):
        return ", not a generator: it returns its result, and does not yield"
    if inspect.isfunction(fn):
        return f": write `async def {fn.__name__}(…)`"
    if inspect.isclass(fn):
        return ": decorate its methods"
    return ""


def _module_name(fn: Callable[..., Any]) -> str:
    """A module's name; of a script, the name it would be imported by, so that both find the same invocations."""
    module = fn.__module__
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return file.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py") if file else module
