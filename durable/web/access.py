"""Who is let in besides what a request says of itself: a token, or the application's own decision."""

import inspect
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request

#: Decides in place of a token, or besides it, who is let in.
Authorize = Callable[[Request], bool | Awaitable[bool]]


def token_of(token: str | None, file: str | os.PathLike[str] | None, variable: str | None) -> bytes | None:
    """The token, given in one of three ways, or None. Raises `ValueError` where it is empty or given twice."""
    given = [one for one in (token, file, variable) if one is not None]
    if not given:
        return None
    if len(given) > 1:
        raise ValueError("give the token once: as token=, token_file= or token_variable=")
    if file is not None:
        token = Path(file).read_text("utf-8").strip()
    elif variable is not None:
        token = os.environ.get(variable, "").strip()
    if not token:
        raise ValueError(f"the token ({given[0] if token is None or variable or file else 'token='}) is empty")
    return token.encode()


async def allowed(authorize: Authorize | None, request: Request) -> bool:
    """Whether the application lets this request in."""
    if authorize is None:
        return True
    answer = authorize(request)
    return bool(await answer if inspect.isawaitable(answer) else answer)
