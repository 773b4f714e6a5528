"""What a request says of itself, read from its ASGI scope."""

from collections import Counter
from urllib.parse import parse_qsl

from starlette.types import Scope

from durable.web.errors import BadRequest
from durable.web.security import Facts


def route_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted under."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and path.startswith(f"{root}/"):
        return str(path[len(root) :])
    return str(path)


def facts_of(scope: Scope) -> Facts:
    """What is looked at before anything else."""
    headers = scope["headers"]
    found: dict[bytes, tuple[str, ...]] = {}
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
        if name in _LOOKED_AT:
            found[name] = (*found.get(name, ()), value.decode("latin-1"))
    [length] = found.get(b"content-length", ("",))[:1]
    return Facts(
        method=scope["method"],
        scheme=str(scope.get("scheme", "http")),
        path=scope["path"],
        target_bytes=len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")),
        host=found.get(b"host", ()),
        origin=found.get(b"origin", ()),
        fetch_site=found.get(b"sec-fetch-site", ()),
        content_type=found.get(b"content-type", ()),
        authorization=found.get(b"authorization", ()),
        content_length=int(length) if length.isdecimal() and length.isascii() and len(length) < 20 else None,
        has_body=length not in ("", "0") or b"transfer-encoding" in found,
        header_bytes=size,
        headers=len(headers),
    )


_LOOKED_AT = frozenset({
    b"host", b"origin", b"sec-fetch-site", b"content-type", b"authorization", b"content-length", b"transfer-encoding",
})  # fmt: skip


def query_of(scope: Scope) -> dict[str, str]:
    """The parameters of the query, each given once. Raises `BadRequest`."""
    query = scope.get("query_string", b"")
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise BadRequest(400, "the query string is no valid UTF-8, or too long") from None
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise BadRequest(400, f"the query parameter {twice[0]!r} is given twice")
    return dict(pairs)
