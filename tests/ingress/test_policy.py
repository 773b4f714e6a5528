"""Who is let in: a table of what browsers, strangers and careless clients could send."""

import itertools

import pytest

from durable.ingress.policy import Limits, Policy, cors_headers, is_preflight, origins_of, refusal_of
from durable.web.security import Facts

METHODS = ("GET", "POST", "OPTIONS", "PUT")
HOSTS: list[tuple[str, ...]] = [
    ("localhost:8080",), ("127.0.0.1",), ("[::1]:8080",), ("evil.example",), (), ("localhost", "localhost"),
    ("localhost.evil.example",),
]  # fmt: skip
ORIGINS: list[tuple[str, ...]] = [
    (), ("http://localhost:8080",), ("http://evil.example",), ("null",), ("https://shop.example.com",),
    ("HTTPS://Shop.Example.com",), ("https://shop.example.com.evil.example",), ("https://shop.example.com:444",),
    ("http://shop.example.com",), ("https://shop.example.com", "http://evil.example"), ("",),
]  # fmt: skip
SITES: list[tuple[str, ...]] = [(), ("same-origin",), ("none",), ("same-site",), ("cross-site",), ("nonsense",)]
SHOP = {("https://shop.example.com",), ("HTTPS://Shop.Example.com",)}


def test_a_page_of_another_site_gets_through_only_where_its_origin_was_named() -> None:
    """Method, host, origin and Sec-Fetch-Site, each with each: what passes is exactly what may."""
    passed = 0
    for cors, method, host, origin, site in itertools.product(
        ((), ("https://shop.example.com",), ("*",)), METHODS, HOSTS, ORIGINS, SITES
    ):
        policy = Policy(origins=origins_of(cors), limits=Limits())
        facts = Facts(method=method, host=host, origin=origin, fetch_site=site)
        refusal = refusal_of(facts, policy)
        if len(host) != 1 or "evil" in host[0]:
            assert refusal is not None and refusal.status == 421
            assert not is_preflight(facts, policy)
            continue
        named = cors == ("*",) or (bool(cors) and origin in SHOP)
        own = host == ("localhost:8080",) and origin == ("http://localhost:8080",)
        may = named or ((own or not origin) and site in ((), ("same-origin",), ("none",)))
        assert (refusal is None) == may, facts
        assert refusal is None or refusal.status == 403
        assert is_preflight(facts, policy) == (method == "OPTIONS" and named and len(origin) == 1)
        told = dict(cors_headers(facts, policy))
        if named and len(origin) == 1:
            assert told[b"access-control-allow-origin"] == (b"*" if cors == ("*",) else b"https://shop.example.com")
            assert b"x-restate-id" in told[b"access-control-expose-headers"]
        else:
            assert b"access-control-allow-origin" not in told
        assert (told.get(b"vary") == b"origin") == bool(cors)
        assert b"access-control-allow-credentials" not in told
        passed += may
    assert passed > 100


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({}, 401),
        ({"authorization": ("Bearer wrong",)}, 401),
        ({"authorization": ("Bearer s3cret",)}, None),
        ({"authorization": ("Bearer s3cret",), "content_length": 32 * 1024 * 1024 + 1}, 413),
        ({"authorization": ("Bearer s3cret",), "content_length": 32 * 1024 * 1024}, None),
        ({"authorization": ("Bearer s3cret",), "target_bytes": 256 * 1024 + 1}, 414),
        ({"authorization": ("Bearer s3cret",), "headers": 101}, 431),
        ({"authorization": ("Bearer s3cret",), "header_bytes": 64 * 1024 + 1}, 431),
        ({"authorization": ("Bearer s3cret",), "path": "/Cart/\n/add"}, None),
    ],
)
def test_size_and_token_are_looked_at(facts: dict[str, object], status: int | None) -> None:
    asked = Facts(method="POST", host=("localhost",), **facts)  # type: ignore[arg-type]
    refusal = refusal_of(asked, Policy(token=b"s3cret", limits=Limits()))
    assert (refusal and refusal.status) == status


@pytest.mark.parametrize(
    "cors", ["", "shop.example.com", "ftp://a", "https://", "https://a/b", "https://\u00e4.example"]
)
def test_what_is_no_origin_is_refused(cors: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        origins_of([cors])
