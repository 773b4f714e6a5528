"""Who may ask: facts about a request and a policy go in, a refusal or nothing comes out. Pure, as `web.security` is.

An ingress is there for strangers, but by default it listens inside an application, beside a browser: only the names
of this machine are served, and no page of another site gets through, not even with a request that a browser sends
without asking first (an image, a form). `cors` names the origins that may.
"""

from collections.abc import Iterable

from durable.web import security
from durable.web.security import Facts, Refusal, foreign, too_long_a_body, too_much, wrong_host, wrong_token


class Limits(security.Limits, frozen=True, kw_only=True):
    """How much one request may bring, and how many there may be at once."""

    #: Bytes of a body; what the engine stores is limited by its `max_value_size`, too.
    body_bytes: int = 32 * 1024 * 1024
    #: Bytes of path and query: a key of 64 KiB, encoded.
    target_bytes: int = 256 * 1024
    #: Requests that are answered at the same time, those included that wait for a result. More get a 429.
    requests: int = 10_000
    #: Bytes of all bodies that are being received. More get a 429.
    receiving_bytes: int = 256 * 1024 * 1024


class Policy(security.Policy, frozen=True, kw_only=True):
    """What is allowed."""

    #: Whose pages may ask; "*" is everybody's.
    origins: frozenset[str] = frozenset()


#: What a page of an allowed origin may read of an answer.
_EXPOSED = (
    b"access-control-expose-headers",
    b"x-restate-id, x-restate-error-source, idempotency-expires, idempotency-input-differs, retry-after",
)
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"*, authorization"),
    (b"access-control-max-age", b"600"),
)
_VARY = (b"vary", b"origin")


def refusal_of(facts: Facts, policy: Policy) -> Refusal | None:
    """Why a request is refused, or None where it may go on."""
    return (
        wrong_host(facts, policy)
        or too_much(facts, policy.limits)
        or _of_another_site(facts, policy)
        or wrong_token(facts, policy)
        or too_long_a_body(facts, policy.limits)
    )


def is_preflight(facts: Facts, policy: Policy) -> bool:
    """Whether a browser asks if a page may ask, and may."""
    return facts.method == "OPTIONS" and _allowed(facts, policy) and wrong_host(facts, policy) is None


def cors_headers(facts: Facts, policy: Policy, *, preflight: bool = False) -> tuple[tuple[bytes, bytes], ...]:
    """What tells a browser that a page may read the answer. Cookies are never asked for."""
    if not policy.origins:
        return ()
    if not _allowed(facts, policy):
        return (_VARY,)
    origin = "*" if "*" in policy.origins else facts.origin[0].lower()
    allowed = (b"access-control-allow-origin", origin.encode("ascii", "replace"))
    return (allowed, _VARY, *(_PREFLIGHT if preflight else (_EXPOSED,)))


def origins_of(cors: Iterable[str]) -> frozenset[str]:
    """Origins as they are compared. Raises `ValueError` for what is none."""
    origins = frozenset(one.strip().lower() for one in cors)
    for origin in origins - {"*"}:
        scheme, colon, host = origin.partition("://")
        if scheme not in ("http", "https") or not colon or not host or "/" in host or not origin.isascii():
            raise ValueError(f"cors: {origin!r} is not an origin, such as 'https://app.example.com'")
    return origins


def _of_another_site(facts: Facts, policy: Policy) -> Refusal | None:
    if "*" in policy.origins or _allowed(facts, policy) or foreign(facts) is None:
        return None
    return Refusal(403, "a page of another site may not ask here: create_app(cors=[...]) names the origins that may")


def _allowed(facts: Facts, policy: Policy) -> bool:
    if len(facts.origin) != 1:
        return False
    return "*" in policy.origins or facts.origin[0].lower() in policy.origins
