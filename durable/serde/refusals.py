"""What is said of a value that cannot be written or read: its type, the reason, and a way out."""

from typing import Any, Final, TypeVar, cast

from durable.errors import SerializationError

E = TypeVar("E", bound=BaseException)

WAY_OUT: Final = (
    "use builtins, a msgspec Struct, dataclass, TypedDict, attrs or pydantic model, "
    "or Annotated[T, Serde(encode=..., decode=...)]"
)


def encode_error(annotation: Any, value: Any, reason: str) -> SerializationError:
    """For a value that does not go in."""
    way_out = f"convert it first, or {WAY_OUT}"
    if annotation is Any and "would come back" in reason:
        way_out = "annotate it with its type (a lambda cannot be annotated: write a function), or convert it first"
    declared = "without an annotation" if annotation is Any else f"annotated as {name_of(annotation)}"
    found = f"a value of type {name_of(type(value))}"
    if _never_awaited(value):
        return SerializationError(f"cannot write {found} {declared}: did you forget `await`? It is no value yet")
    return SerializationError(f"cannot write {found} {declared}: {reason}; {way_out}")


def _never_awaited(value: Any) -> bool:
    """Whether it is, or contains, what somebody has to await first."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return any(hasattr(type(one), "__await__") for one in (value, *inside))


def decode_error(annotation: Any, reason: str) -> SerializationError:
    """For bytes that are no such value."""
    if "Expected `float" in reason and "got `null`" in reason:
        reason += " (NaN and infinity are written as null: JSON has neither)"
    return SerializationError(f"cannot read {'JSON' if annotation is Any else name_of(annotation)}: {reason}")


def named(error: E, what: str) -> E:
    """The error, saying whose value it is, where it is what a Serde raises."""
    if type(error) is not SerializationError:
        return error
    told, meant = SerializationError(f"{what}: {error}"), cast(SerializationError, error)
    told.reason, told.__cause__ = meant.reason, meant.__cause__
    return cast(E, told.with_traceback(meant.__traceback__))


def reason_of(exc: Exception) -> str:
    """What an exception says, in a line."""
    try:
        text = str(exc).encode("utf-8", "backslashreplace").decode()
    except Exception:
        text = "(its message cannot be shown)"
    return f"{type(exc).__name__}: {text[:1000]}"


def name_of(annotation: Any) -> str:
    """An annotation, as messages show it."""
    return f"`{annotation.__qualname__ if isinstance(annotation, type) else annotation}`"
