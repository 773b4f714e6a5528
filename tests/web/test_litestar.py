"""Both apps mounted in Litestar, which keeps neither an encoded slash nor its prefix in what it passes on."""

import asyncio
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
from litestar import Litestar, asgi

from durable import Engine, ObjectContext, VirtualObject, admin, handler, ingress
from durable.testing import MemoryStore, VirtualClock, run


class Cart(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, count: int) -> str:
        return f"{ctx.key} {count}"


@pytest.mark.parametrize("key", ["ada", "a/b", "a b", "ü", "/", "a%2Fb"])
def test_an_engine_is_operated_and_reached_below_prefixes_of_litestar(key: str) -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[Cart()], store=MemoryStore(), clock=clock) as engine:
            apps: dict[str, Any] = {"/ops/durable": admin.create_app(engine), "/invoke": ingress.create_app(engine)}
            mounted = [asgi(path, is_mount=True, copy_scope=True)(app) for path, app in apps.items()]
            transport = httpx.ASGITransport(cast(Any, Litestar(route_handlers=mounted)))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                answer = await http.post(f"/invoke/Cart/{quote(key, safe='')}/add", json=2)
                assert (answer.status_code, answer.json()) == (200, f"{key} 2")
                [one] = (await http.get("/ops/durable/invocations")).json()["invocations"]
                assert one["target"] == f"Cart/{key}/add"
                answer = await http.patch(f"/ops/durable/invocations/{one['id']}/purge")
                assert answer.status_code == 200
                assert (await http.get("/ops/durable/invocations")).json() == {"invocations": []}

    run(main)
