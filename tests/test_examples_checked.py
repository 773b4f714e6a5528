"""Examples as their authors would test them: `check`, and the fixtures of the pytest plug-in."""

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable import Engine, TerminalError
from durable.testing import ClockByHand, Sim, VirtualClock, check
from examples import embedded_in_fastapi
from examples.hello import hello
from examples.human_approval import Expense, Expenses, read
from examples.keyed_counter import Counter
from examples.saga import TRIPS, book_trip
from examples.sign_up import SignUp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants another client underneath
    from fastapi.testclient import TestClient


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def mailbox(tmp_path: Path) -> Path:
    return tmp_path / "mailbox"


@pytest.fixture
def durable_services(mailbox: Path) -> list[object]:
    return [SignUp(mailbox), Expenses(mailbox), embedded_in_fastapi.fulfil]


# ---- check ----


def test_hello_is_said_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    assert check([hello], lambda sim: sim.call(hello, "World")).startswith("Hello, World! Composed by process")


def test_a_trip_without_a_car_leaves_no_booking_behind(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(sim: Sim) -> list[object]:
        told: list[object] = []
        for trip in TRIPS:
            try:
                told.append(await sim.call(book_trip, trip))
            except TerminalError as error:
                told.append(error.code)
        lines = capsys.readouterr().out.splitlines()
        assert {line for line in lines if "cancelling" in line} == {
            f"trip-2: cancelling trip-2/{what}, if there is such a booking" for what in ("flight", "hotel", "car")
        }
        return told

    assert check([book_trip], scenario, most=10) == [["trip-1/flight", "trip-1/hotel", "trip-1/car"], 409]


def test_no_increment_is_lost() -> None:
    async def scenario(sim: Sim) -> int:
        await asyncio.gather(*[sim.call(Counter.add, amount, key="apples") for amount in range(1, 6)])
        return await sim.call(Counter.value, key="apples")

    assert check([Counter()], scenario, most=10) == 15


# ---- durable_engine ----


@pytest.mark.anyio
@pytest.mark.durable_crash
async def test_who_types_in_the_code_has_an_account(durable_engine: Engine, mailbox: Path) -> None:
    signed_up = await durable_engine.send(SignUp.run, "ada@example.com", key="ada")
    while not (mails := read(mailbox)):  # noqa: ASYNC110 (it takes no time)
        await asyncio.sleep(1)
    assert await durable_engine.call(SignUp.status, key="ada") == "waiting for the code"
    with pytest.raises(TerminalError, match="that is not the code in the mail"):
        await durable_engine.call(SignUp.verify, "no code", key="ada")
    await durable_engine.call(SignUp.verify, mails[0], key="ada")
    assert await signed_up.result() == "account ada <ada@example.com>"


@pytest.mark.anyio
@pytest.mark.durable_crash
async def test_an_expense_is_declined_when_patience_is_over(
    durable_engine: Engine, durable_clock: VirtualClock, mailbox: Path
) -> None:
    coffee = Expense("e-3", "coffee", 3, "3 days")
    declined = await durable_engine.send(Expenses.reimburse, coffee)
    await durable_clock.advance("2 days")
    assert len(set(read(mailbox))) == 1
    assert (await declined.describe()).completed_at is None
    assert await declined.result() == "coffee declined, nobody answered within 3 days"


# ---- durable_app_engine ----


@pytest.fixture
def client(durable_app_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The app was made with an engine on a file when it was imported."""
    app = embedded_in_fastapi.app
    monkeypatch.setattr(app.state, "durable", durable_app_engine)
    monkeypatch.setattr(app.router, "lifespan_context", durable_app_engine.lifespan)
    with TestClient(app) as client:
        yield client


def test_an_order_is_accepted_and_done(client: TestClient, durable_app_clock: ClockByHand) -> None:
    for item, receipt in (("lamp", {"paid": 50, "parcel": "parcel with 2 x lamp"}), ("unicorn", None)):
        accepted = client.post("/orders", json={"item": item, "quantity": 2}, headers={"Idempotency-Key": item})
        assert (accepted.status_code, accepted.json()["status"]) == (202, "accepted")
        durable_app_clock.advance("1s")
        assert client.get(accepted.headers["location"]).json()["receipt"] == receipt
