"""Functions that look for a text in a text: SQLite's take as long as the product of both lengths, these the sum."""

from collections.abc import Callable
from typing import Any

from durable.admin.sql.column import SHOWN_BYTES

#: How many bytes a value may have, as `SQLITE_LIMIT_LENGTH` says.
LENGTH_MAX = 4 * SHOWN_BYTES


def instr(value: Any, wanted: Any) -> int | None:
    """Where one begins in the other, counted from 1; 0 where it does not."""
    if value is None or wanted is None:
        return None
    if isinstance(value, bytes) and isinstance(wanted, bytes):
        return value.find(wanted) + 1
    return _text(value).find(_text(wanted)) + 1


def replace(value: Any, wanted: Any, by: Any) -> Any:
    """The same with another text wherever one is."""
    if value is None or wanted is None:
        return None
    text, old = _text(value), _text(wanted)
    if not old:
        return text if isinstance(value, bytes) else value  # whatever the other text is
    if by is None:
        return None
    new = _text(by)
    if len(new) > len(old) and len(text) + text.count(old) * (len(new) - len(old)) > LENGTH_MAX:
        raise OverflowError
    return text.replace(old, new)


def _trimming(left: bool, right: bool) -> Callable[[Any, Any], str | None]:
    def work(value: Any, characters: Any) -> str | None:
        if value is None or characters is None:
            return None
        text, taken = _text(value), _text(characters)
        start, end, among = 0, len(text), {*taken}
        while left and start < end and text[start] in among:
            start += 1
        while right and start < end and text[end - 1] in among:
            end -= 1
        return text[start:end]

    return work


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


#: Name, number of arguments, function.
FUNCTIONS: tuple[tuple[str, int, Callable[..., Any]], ...] = (
    ("instr", 2, instr),
    ("replace", 3, replace),
    ("trim", 2, _trimming(True, True)),
    ("ltrim", 2, _trimming(True, False)),
    ("rtrim", 2, _trimming(False, True)),
)
