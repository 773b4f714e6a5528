"""A request as a server hands it over, and moments as they travel."""

import pytest

from durable.views.moments import instant
from durable.web.requests import raw_route_path


@pytest.mark.parametrize(
    ("path", "root", "raw", "below"),
    [
        ("/Cart/a/b/add", "", b"/Cart/a%2Fb/add", "/Cart/a%2Fb/add"),
        ("/in/Cart/a/b/add", "/in", b"/in/Cart/a%2Fb/add", "/Cart/a%2Fb/add"),
        ("/a b/Cart/k/add", "/a b", b"/a%20b/Cart/k/add", "/Cart/k/add"),
        ("/a/b/Cart/k/add", "/a/b", b"/a%2Fb/Cart/k/add", "/Cart/k/add"),
        ("/Cart/a/b/add", "/in", b"/in/Cart/a%2Fb/add", "/Cart/a%2Fb/add"),  # the prefix was taken off the path
        ("/Cart/a/b/add", "/in", b"/Cart/a%2Fb/add", "/Cart/a%2Fb/add"),
        ("/Cart/a b/add", "", None, "/Cart/a%20b/add"),
        ("/Cart/a b/add", "", b"/something/else", "/Cart/a%20b/add"),
        ("/Cart/k/add", "", b"/Cart/k/add?delay=1s", "/Cart/k/add"),
        ("/", "/in", b"/in/", "/"),
    ],
)
def test_an_encoded_slash_stays_one_below_a_prefix(path: str, root: str, raw: bytes | None, below: str) -> None:
    assert raw_route_path({"path": path, "root_path": root, "raw_path": raw}) == below


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_796_000_000_123, "2026-11-30T00:53:20.123Z"),
        (240_779_519_999_999, "9599-12-31T23:59:59.999Z"),
        (240_779_520_000_000, "9600-01-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "+10000-01-01T00:00:00.000Z"),
        (253_407_398_400_000, "+10000-02-29T00:00:00.000Z"),
        (632_903_417_600_000 + 1_000, "+22025-11-29T00:53:21.000Z"),
    ],
)
def test_a_moment_is_told_however_far_it_is(ms: int, text: str) -> None:
    assert instant(ms) == text
