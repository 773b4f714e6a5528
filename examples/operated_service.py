"""A service and those who operate it: the admin API is mounted beside the service's own routes.

    PARCELS_DB=parcels.db OPS_TOKEN=s3cret uvicorn --timeout-graceful-shutdown 3 examples.operated_service:app

    curl -i localhost:8000/parcels/lamp -X POST                                     # a customer
    curl -H 'Authorization: Bearer s3cret' 'localhost:8000/ops/invocations?status=paused'
    curl -H 'Authorization: Bearer s3cret' -X PATCH localhost:8000/ops/invocations/inv_1.../resume

The carrier is closed in the morning, so a parcel pauses after its first try. An operator sees which and why, waits
until the carrier opens, and resumes it: what had been done before is in the journal, and is not done again. With
`RESTATE_ADMIN_URL=http://localhost:8000/ops` and `RESTATE_AUTH_TOKEN=s3cret`, Restate's `restate` command line does
the same.

    python examples/operated_service.py parcels.db                                  # the same without a server
"""

import asyncio
import logging
import os
import sys
import tempfile
from typing import Any

import httpx
from fastapi import FastAPI

from durable import Context, Engine, RetryPolicy, handler
from durable.admin import create_app

carrier = {"open": False}


@handler(service="Parcels", retry=RetryPolicy(max_attempts=1))  # then it waits for an operator
async def ship(ctx: Context, item: str) -> str:
    """Pack it, then hand it over."""
    parcel = await ctx.run(pack, item)
    return await ctx.run(hand_over, parcel)


async def pack(item: str) -> str:
    """Done once, whatever comes later."""
    print(f"packing one {item}")
    return f"parcel with one {item}"


async def hand_over(parcel: str) -> str:
    """Stands for a carrier that keeps hours."""
    if not carrier["open"]:
        raise ConnectionError("the carrier is closed")
    return f"{parcel}, on its way"


def create_service(path: str, token: str) -> FastAPI:
    """The customers' route, and the operators' below /ops."""
    engine = Engine(path, services=[ship])
    app = FastAPI(lifespan=engine.lifespan)
    app.mount("/ops", create_app(engine, token=token))

    @app.post("/parcels/{item}", status_code=202)
    async def order(item: str) -> str:
        return (await engine.send(ship, item, idempotency_key=item)).id

    return app


if "PARCELS_DB" in os.environ:
    app = create_service(os.environ["PARCELS_DB"], os.environ["OPS_TOKEN"])


async def once(operator: httpx.AsyncClient, id: str, *statuses: str) -> dict[str, Any]:
    """What the operator sees of it, once it has one of these statuses."""
    while True:
        seen: dict[str, Any] = (await operator.get(f"/invocations/{id}")).json()
        if seen["status"] in statuses:
            return seen
        await asyncio.sleep(0.05)


async def demo(path: str) -> None:
    """A morning: a parcel that is stuck, and an operator who gets it going."""
    logging.getLogger("durable").addHandler(logging.NullHandler())  # this operator reads the API, not the log
    service = create_service(path, token="s3cret")
    transport = httpx.ASGITransport(service)
    customer = httpx.AsyncClient(transport=transport, base_url="http://localhost")
    operator = httpx.AsyncClient(
        transport=transport, base_url="http://localhost/ops", headers={"Authorization": "Bearer s3cret"}
    )
    async with service.router.lifespan_context(service), customer, operator:
        id = (await customer.post("/parcels/lamp")).json()
        print("a stranger asks:", (await customer.get("/ops/invocations")).status_code)
        parcel = await once(operator, id, "paused", "completed")
        if parcel["status"] == "paused":
            print(f"{parcel['target']} is paused: {parcel['failure']['message']}")
            carrier["open"] = True
            print("resume:", (await operator.patch(f"/invocations/{id}/resume")).status_code)
            parcel = await once(operator, id, "completed")
        journal = (await operator.get(f"/invocations/{id}/journal")).json()["entries"]
        print(parcel["status"], [entry["name"] for entry in journal if entry["kind"] == "run"], parcel["output"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(demo(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/parcels.db"))
