"""Who is let in: a table of what browsers, strangers and careless clients could send."""

import itertools
import time

import pytest

from durable.admin.policy import not_json, refusal_of
from durable.web.security import (
    Facts,
    Limits,
    Policy,
    deeper_than,
    host_names,
)

MUTATING = ("POST", "PUT", "PATCH", "DELETE")
READING = ("GET", "HEAD", "OPTIONS")
POLICY = Policy()
TYPES: list[tuple[str, ...]] = [
    (), ("text/plain",), ("application/x-www-form-urlencoded",), ("multipart/form-data; boundary=x",),
    ("text/plain; application/json",), ("application/json", "text/plain"), ("application/json",),
    ("application/json; charset=utf-8",), ("Application/JSON",),
]  # fmt: skip
ORIGINS: list[tuple[str, ...]] = [
    (), ("http://localhost:9070",), ("https://localhost:9070",), ("http://evil.example",), ("null",),
    ("http://localhost",), ("http://localhost:9070.evil.example",), ("",),
    ("http://localhost:9070", "http://evil.example"), ("file://localhost:9070",),
]  # fmt: skip
HOSTS: list[tuple[str, ...]] = [
    ("localhost:9070",), ("LOCALHOST:9070",), ("127.0.0.1:9070",), ("[::1]:9070",), ("localhost",), ("evil.example",),
    ("evil.example:9070",), ("localhost.evil.example",), ("localhost:9070", "evil.example"), (), ("",),
    ("localhost:9070@evil.example",), ("localhost:port",), ("0.0.0.0:9070",), ("::1",),
]  # fmt: skip
SITES: list[tuple[str, ...]] = [(), ("same-origin",), ("none",), ("same-site",), ("cross-site",), ("nonsense",)]

GOOD_HOSTS = {"localhost:9070", "LOCALHOST:9070", "127.0.0.1:9070", "[::1]:9070", "localhost"}
GOOD_TYPES = {("application/json",), ("application/json; charset=utf-8",), ("Application/JSON",)}


def test_what_a_page_of_another_site_can_send_changes_nothing() -> None:
    """Method, content type, origin, host and Sec-Fetch-Site, each with each: what passes is exactly what may."""
    passed = 0
    for method, kind, origin, host, site in itertools.product((*MUTATING, *READING), TYPES, ORIGINS, HOSTS, SITES):
        facts = Facts(
            method=method, host=host, origin=origin, content_type=kind, fetch_site=site, has_body=bool(kind)
        )  # fmt: skip
        refusal = refusal_of(facts, POLICY) or not_json(facts)
        right_host = len(host) == 1 and host[0] in GOOD_HOSTS
        if not right_host:
            assert refusal is not None and refusal.status == 421, (method, host)
            continue
        own = {f"http://{host[0].lower()}", f"https://{host[0].lower()}"}
        may = not origin or (len(origin) == 1 and origin[0] in own)
        if method in READING and may:
            assert refusal is None
            continue
        if not may or site not in ((), ("same-origin",), ("none",)):
            assert refusal is not None and refusal.status == 403, facts
        elif kind in GOOD_TYPES or (not kind and method != "POST"):
            assert refusal is None, facts
            passed += 1
        else:
            assert refusal is not None and refusal.status == 415, facts
    assert passed


@pytest.mark.parametrize(
    ("scheme", "origin", "status"),
    [
        ("https", "https://localhost", None),
        ("https", "https://localhost:443", None),
        ("https", "http://localhost", 403),
        ("http", "http://localhost:80", None),
        ("http", "https://localhost", None),  # a proxy that ends TLS
    ],
)
def test_the_same_origin_is_told_by_its_scheme_and_port(scheme: str, origin: str, status: int | None) -> None:
    facts = Facts(method="PATCH", scheme=scheme, host=("localhost",), origin=(origin,))
    refusal = refusal_of(facts, POLICY)
    assert (refusal and refusal.status) == status


@pytest.mark.parametrize(
    ("authorization", "passes"),
    [
        (("Bearer secret",), True),
        (("bearer secret",), True),
        (("Bearer  secret ",), True),
        ((), False),
        (("Bearer wrong",), False),
        (("Bearer secret2",), False),
        (("Bearer ",), False),
        (("secret",), False),
        (("Basic secret",), False),
        (("Bearer s\u00e9cret",), False),
        (("Bearer secret", "Bearer secret"), False),
    ],
)
def test_a_token_is_asked_for_on_every_route(authorization: tuple[str, ...], passes: bool) -> None:
    policy = Policy(token=b"secret")
    for method in READING:
        refusal = refusal_of(Facts(method=method, host=("localhost",), authorization=authorization), policy)
        if passes:
            assert refusal is None
        else:
            assert refusal is not None
            assert (refusal.status, refusal.headers) == (401, {"www-authenticate": "Bearer"})
            is_bearer = bool(authorization) and authorization[0].lower().startswith("bearer")
            assert refusal.message.startswith(
                "the bearer token is wrong" if is_bearer else "a bearer token is needed"
            )


LIMITS = Limits(body_bytes=10, target_bytes=20, header_bytes=30, headers=3)


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({"target_bytes": 20}, None),
        ({"target_bytes": 21}, 414),
        ({"header_bytes": 30}, None),
        ({"header_bytes": 31}, 431),
        ({"headers": 3}, None),
        ({"headers": 4}, 431),
        ({"content_length": 10}, None),
        ({"content_length": 11}, 413),
        ({"path": "/services/a\nb"}, 400),
        ({"path": "/services/a\x00"}, 400),
        ({"path": "/services/a\x1b[2J"}, 400),
        ({"path": "/services/é"}, None),
    ],
)
def test_limits_hold_at_their_edge(facts: dict[str, object], status: int | None) -> None:
    known = {"method": "PATCH", "host": ("localhost",), "content_type": ("application/json",)}
    refusal = refusal_of(Facts(**{**known, **facts}), Policy(limits=LIMITS))  # type: ignore[arg-type]
    assert (refusal and refusal.status) == status


def test_hosts_may_be_named_with_a_port_or_all_at_once() -> None:
    policy = Policy(hosts=host_names(["Ops.example.com", "api.example.com:8443"]))
    for host, passes in {
        "ops.example.com": True,
        "ops.example.com:1": True,
        "api.example.com:8443": True,
        "api.example.com": False,
        "api.example.com:443": False,
        "localhost": False,
    }.items():
        assert (refusal_of(Facts(method="GET", host=(host,)), policy) is None) is passes, host
    everything = Policy(hosts=host_names(["*"]))
    assert refusal_of(Facts(method="GET", host=("anything.example",)), everything) is None
    assert refusal_of(Facts(method="GET"), everything) is not None, "a name is needed all the same"
    for wrong in ("", "http://localhost", "a b", "user@host"):
        with pytest.raises(ValueError, match="is not a host name"):
            host_names([wrong])


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("body", "deeper"),
    [
        (b"", False),
        (b"7", False),
        (nested(4), False),
        (nested(5), True),
        (nested(1_000_000), True),
        (b"[" * 1_000_000, True),
        (b'{"a":' * 5 + b"1" + b"}" * 5, True),
        (b'{"a":[{"b":[1]}]}', False),
        (b'{"a":[{"b":[[]]}]}', True),
        (b'["[[[[[[[["]', False),
        (b'["\\"[[[[[[[["]', False),
        (b'["\\\\", [[[[1]]]]]', True),
        (b'["\\\\", [[[1]]], {}, {}]', False),
        (b"[[],[],[],[],[],[[[]]]]", False),
        (b",".join([b"[]"] * 100_000), False),
    ],
)
def test_depth_is_known_without_recursion(body: bytes, deeper: bool) -> None:
    began = time.process_time()
    assert deeper_than(body, 4) is deeper
    assert time.process_time() - began < 0.5
