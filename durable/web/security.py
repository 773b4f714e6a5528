"""Rules about who may ask for what: facts about a request and a policy go in, a refusal or nothing comes out.

Nothing here reads a request or knows the time: what a browser, a stranger or a careless proxy could send is a table
in the tests. Each surface composes its own policy of these rules: see `admin/policy.py` and `ingress/policy.py`.
"""

import hmac
from collections.abc import Iterable, Mapping

import msgspec

#: Names of this machine that only programs on it can use.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: Methods that change nothing.
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one request may bring."""

    #: Bytes of a body. A longer one is refused before it is read, or as soon as it shows.
    body_bytes: int = 8 * 1024 * 1024
    #: Seconds in which the first, and each further, 64 KiB of a body have to come.
    body_seconds: float = 30.0
    #: Bytes of path and query.
    target_bytes: int = 16 * 1024
    #: Bytes of all headers, names and values.
    header_bytes: int = 64 * 1024
    #: Number of headers.
    headers: int = 100


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is allowed."""

    #: Lower-case names, a port only where it matters; "*" allows every name.
    hosts: frozenset[str] = LOOPBACK
    #: The bearer token, or None where none is asked for.
    token: bytes | None = None
    limits: Limits = Limits()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of itself, as text; headers with several values have all of them."""

    method: str
    scheme: str = "http"
    path: str = "/"
    target_bytes: int = 0
    host: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    fetch_site: tuple[str, ...] = ()
    content_type: tuple[str, ...] = ()
    authorization: tuple[str, ...] = ()
    #: What `Content-Length` says, if it says anything.
    content_length: int | None = None
    #: Whether a body is on its way: a length above zero, or one that is not known beforehand.
    has_body: bool = False
    header_bytes: int = 0
    headers: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not looked at any further."""

    status: int
    message: str
    headers: Mapping[str, str] = {}
    #: The class of the error, where the status does not tell; and what is needed to make it again.
    kind: str = ""
    metadata: Mapping[str, str] = {}


def wrong_host(facts: Facts, policy: Policy) -> Refusal | None:
    """Whether it was meant for another server, as far as `Host` tells."""
    if _host_allowed(facts.host, policy.hosts):
        return None
    named = "no Host header" if not facts.host else f"the Host {', '.join(facts.host)!r}"
    return Refusal(421, f"{named} is not served here: add the name to create_app(allowed_hosts=[...])")


def too_much(facts: Facts, limits: Limits) -> Refusal | None:
    """Whether path, query or headers are too long."""
    if facts.target_bytes > limits.target_bytes:
        return Refusal(414, f"path and query have {facts.target_bytes} bytes; at most {limits.target_bytes} are read")
    if facts.header_bytes > limits.header_bytes or facts.headers > limits.headers:
        return Refusal(431, f"at most {limits.headers} headers with {limits.header_bytes} bytes in all are read")
    return None


def wrong_token(facts: Facts, policy: Policy) -> Refusal | None:
    """Whether a token is needed that it has not."""
    if policy.token is None or _token_right(facts.authorization, policy.token):
        return None
    bearer = facts.authorization and facts.authorization[0].partition(" ")[0].lower() == "bearer"
    told = "the bearer token is wrong" if bearer else "a bearer token is needed: Authorization: Bearer ..."
    return Refusal(401, told, {"www-authenticate": "Bearer"})


def too_long_a_body(facts: Facts, limits: Limits) -> Refusal | None:
    """Whether the body that it announces is too long."""
    return None if facts.content_length is None or facts.content_length <= limits.body_bytes else too_long(limits)


def too_long(limits: Limits) -> Refusal:
    """The refusal of a body that is too long."""
    return Refusal(413, f"the body is longer than {limits.body_bytes} bytes")


def host_names(names: Iterable[str]) -> frozenset[str]:
    """Names for `Policy.hosts`, as they are compared. Raises `ValueError` for what is no host name."""
    hosts = frozenset(name.strip().lower() for name in names)
    for host in hosts:
        if not host or "/" in host or "@" in host or any(ord(char) <= 32 for char in host):
            raise ValueError(f"allowed_hosts: {host!r} is not a host name, such as 'ops.example.com:8443'")
    return hosts


def _host_allowed(host: tuple[str, ...], allowed: frozenset[str]) -> bool:
    if len(host) != 1 or not host[0]:
        return False
    authority = host[0].lower()
    return "*" in allowed or authority in allowed or _without_port(authority) in allowed


def _without_port(authority: str) -> str:
    name, colon, port = authority.rpartition(":")
    return name if colon and port.isdecimal() and port.isascii() else authority


def _token_right(authorization: tuple[str, ...], token: bytes) -> bool:
    given = authorization[0] if len(authorization) == 1 else ""
    scheme, _, credentials = given.partition(" ")
    right = hmac.compare_digest(credentials.strip().encode("utf-8", "replace"), token)
    return right and scheme.lower() == "bearer"


def foreign(facts: Facts) -> Refusal | None:
    """Whether a page of another site sent it, as a browser says; other clients say nothing."""
    refusal = foreign_origin(facts)
    if refusal is not None:
        return refusal
    if any(site not in ("same-origin", "none") for site in facts.fetch_site):
        return Refusal(403, "pages of other sites may not change anything here")
    return None


def foreign_origin(facts: Facts) -> Refusal | None:
    """Whether a browser names another origin that it comes from."""
    if facts.origin and (len(facts.origin) > 1 or not _same_origin(facts.origin[0], facts)):
        return Refusal(403, f"the origin {', '.join(facts.origin)!r} may not ask anything here")
    return None


def _same_origin(origin: str, facts: Facts) -> bool:
    scheme, colon, authority = origin.lower().partition("://")
    if not colon or scheme not in _DEFAULT_PORTS or (facts.scheme == "https" and scheme != "https"):
        return False  # behind a proxy that ends TLS, an https origin arrives at http
    suffix = f":{_DEFAULT_PORTS[scheme]}"
    return authority.removesuffix(suffix) == facts.host[0].lower().removesuffix(suffix)


def deeper_than(body: bytes, levels: int) -> bool:
    """Whether JSON nests arrays and objects deeper than that; of what is no JSON, nothing is promised.

    Looked at before a body is decoded: decoders recurse.
    """
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    brackets, too_deep = _outside_strings(body).translate(_BRACKETS, _NO_BRACKETS), b"[" * (levels + 1)
    for _ in range(levels):
        inner = brackets.replace(b"[]", b"")  # all that are innermost, at once
        if too_deep in inner or len(inner) == len(brackets):
            break
        brackets = inner
    return bool(brackets)


def _outside_strings(body: bytes) -> bytes:
    """Without strings: after the escapes are gone, every second part between quotes is outside."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(plain.split(b'"')[::2])


_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
