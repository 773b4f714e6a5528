"""An engine inside a FastAPI service: POST accepts an order, GET tells what became of it.

    ORDERS_DB=orders.db uvicorn --timeout-graceful-shutdown 3 examples.embedded_in_fastapi:app

    curl -i localhost:8000/orders -H 'Idempotency-Key: 17' --json '{"item": "lamp", "quantity": 2}'
    curl -i localhost:8000/orders/inv_1...                          # the id that the first one answered

There is no second process and no broker: the engine lives from the start to the end of the app. Once POST has
answered, the order is in the file. Kill the server (`kill -9`) while the order is being worked on and start it
again: the order is finished without anybody asking, and GET has the answer. A client that lost the answer to
its POST repeats it with the same key, and gets the id of the same order.

    python examples/embedded_in_fastapi.py orders.db                # the same without a server, in one go
"""

import asyncio
import os
import sys
import tempfile
from typing import Annotated

import httpx
from fastapi import APIRouter, FastAPI, Header, Response
from pydantic import BaseModel, PositiveInt

from durable import Context, Engine, TerminalError, handler
from durable.fastapi import Durable, install


class Order(BaseModel):
    """What is ordered: the same model in the request, in the handler, and in the file."""

    item: str
    quantity: PositiveInt


class Receipt(BaseModel):
    """What the customer gets."""

    paid: int
    parcel: str


class Progress(BaseModel):
    """What GET answers."""

    id: str
    status: str
    receipt: Receipt | None = None
    error: str | None = None


# ---- what is durable ----


@handler(service="Orders")  # named here, so that it is the same however this module is imported
async def fulfil(ctx: Context, order: Order) -> Receipt:
    """Take the money, then send the goods."""
    paid = await ctx.run(charge, order)
    await ctx.sleep("300ms")
    parcel = await ctx.run(ship, order)
    return Receipt(paid=paid, parcel=parcel)


async def charge(order: Order) -> int:
    """Stands for a payment service."""
    print(f"charging for {order.quantity} x {order.item}")
    if order.item == "unicorn":
        raise TerminalError("unicorns are not for sale", code=409)
    return 25 * order.quantity


async def ship(order: Order) -> str:
    """Stands for a carrier."""
    print(f"shipping {order.quantity} x {order.item}")
    await asyncio.sleep(0.1)
    return f"parcel with {order.quantity} x {order.item}"


# ---- the web ----


router = APIRouter()


@router.post("/orders", status_code=202)
async def accept(
    order: Order, engine: Durable, response: Response, idempotency_key: Annotated[str, Header()]
) -> Progress:
    """Answers as soon as the order cannot be lost any more."""
    handle = await engine.send(fulfil, order, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/orders/{handle.id}"
    return Progress(id=handle.id, status="accepted" if handle.accepted else "known")


@router.get("/orders/{id}")
async def look(id: str, engine: Durable) -> Progress:
    """The receipt, the reason why there is none, or how far it is."""
    status = (await engine.describe(id)).status
    if status != "completed":
        return Progress(id=id, status=status)
    try:
        return Progress(id=id, status=status, receipt=await engine.output(id, Receipt))
    except TerminalError as error:
        return Progress(id=id, status="failed", error=error.message)


def create_service(path: str) -> FastAPI:
    """The engine starts with the app, goes on with what is unfinished, and stops with the app.

    Its refusals know their status: 404 for an unknown order, 400 for a malformed id.
    """
    engine = Engine(path, services=[fulfil])
    app = FastAPI(lifespan=engine.lifespan)
    install(app, engine)
    app.include_router(router)
    return app


app = create_service(os.environ.get("ORDERS_DB", "orders.db"))


async def demo(path: str) -> None:
    """A customer who orders everything twice, because the first answer was lost, and then waits."""
    app = create_service(path)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders")
    async with app.router.lifespan_context(app), client as http:
        for item in ("lamp", "unicorn"):
            place = ""
            for _ in range(2):
                order = {"item": item, "quantity": 2}
                answer = await http.post("/orders", json=order, headers={"Idempotency-Key": f"one {item}"})
                print(f"POST {item}: {answer.status_code} {answer.json()['status']}")
                place = answer.headers["Location"]
            progress = {"status": "accepted"}
            while progress["status"] not in ("completed", "failed"):
                await asyncio.sleep(0.05)
                progress = (await http.get(place)).json()
            print(f"GET {item}: {progress['status']}, {progress['receipt'] or progress['error']}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(demo(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/orders.db"))
