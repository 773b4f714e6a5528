"""Services over HTTP: exactly the fields that Restate documents, and options that take effect."""

import asyncio
from typing import Any

import pytest

from durable import InvalidRequestError
from durable.core.state_version import state_version
from tests.admin.support import Served, story

#: The fields of the documented answers.
SERVICE = {
    "name", "ty", "handlers", "deployment_id", "revision", "documentation", "metadata", "public",
    "idempotency_retention", "workflow_completion_retention", "journal_retention", "inactivity_timeout",
    "abort_timeout", "enable_lazy_state", "retry_policy", "info",
}  # fmt: skip
HANDLER = {
    "name", "ty", "documentation", "metadata", "idempotency_retention", "journal_retention", "inactivity_timeout",
    "abort_timeout", "enable_lazy_state", "public", "input_description", "output_description", "input_json_schema",
    "output_json_schema", "retry_policy", "info",
}  # fmt: skip
RETRY = {"initial_interval", "exponentiation_factor", "max_interval", "max_attempts", "on_max_attempts"}


def test_services_have_the_documented_fields_and_no_others() -> None:
    async def tell(admin: Served) -> None:
        answer = (await admin.http.get("/services")).json()
        assert [service["name"] for service in answer["services"]] == ["Cart", "Greeter", "SignUp"]
        assert [service["ty"] for service in answer["services"]] == ["VirtualObject", "Service", "Workflow"]
        for service in answer["services"]:
            assert service.keys() <= SERVICE
            assert service.keys() >= SERVICE - {"documentation", "metadata", "workflow_completion_retention", "info"}
            assert service["retry_policy"].keys() == RETRY
            assert service == (await admin.http.get(f"/v3/services/{service['name']}")).json()
            assert {"handlers": service["handlers"]} == (
                await admin.http.get(f"/services/{service['name']}/handlers")
            ).json()
            for handler in service["handlers"]:
                assert handler.keys() <= HANDLER
                path = f"/services/{service['name']}/handlers/{handler['name']}"
                assert handler == (await admin.http.get(path)).json()
        greeter = answer["services"][1]
        assert greeter["retry_policy"] == {
            "initial_interval": "500ms",
            "exponentiation_factor": 2.0,
            "max_interval": "1m",
            "max_attempts": 70,
            "on_max_attempts": "Pause",
        }
        assert (greeter["idempotency_retention"], greeter["abort_timeout"]) == ("1d", "10m")
        [greet] = [handler for handler in greeter["handlers"] if handler["name"] == "greet"]
        assert greet["documentation"] == "Say hello."
        assert greet["input_json_schema"] == {"type": "string"}
        [run] = answer["services"][2]["handlers"]
        assert run["ty"] == "Workflow"

    story(tell)


def test_what_is_not_there_is_named() -> None:
    async def tell(admin: Served) -> None:
        for path, message in (
            ("/services/No", "The requested service 'No' does not exist"),
            ("/services/No/handlers", "The requested service 'No' does not exist"),
            ("/services/Greeter/handlers/no", "The requested handler 'no' on service 'Greeter' does not exist"),
        ):
            answer = await admin.http.get(path)
            assert (answer.status_code, answer.json()["message"]) == (404, message)

    story(tell)


def test_a_patch_answers_with_the_new_values_and_takes_effect() -> None:
    async def tell(admin: Served) -> None:
        change = {
            "public": False,
            "idempotency_retention": "5 hours",
            "journal_retention": "PT90M",
            "inactivity_timeout": "1h, 30m",
            "abort_timeout": "1.5h",
            "workflow_completion_retention": None,
        }
        answer = await admin.patch("/services/Greeter", change)
        assert answer.status_code == 200
        service = answer.json()
        assert service["public"] is False
        assert service["idempotency_retention"] == "5h"
        assert service["journal_retention"] == "1h 30m"
        assert service["inactivity_timeout"] == "1h 30m"
        assert service["abort_timeout"] == "1h 30m"
        assert service == (await admin.http.get("/services/Greeter")).json()
        with pytest.raises(InvalidRequestError, match="not public"):
            await admin.engine.send("Greeter/greet", "you")

        assert (await admin.patch("/services/Greeter", {"public": True})).json()["abort_timeout"] == "1h 30m"
        id = await admin.completed("Greeter/greet", "you", idempotency_key="k")
        await asyncio.sleep(5.1 * 3600)
        assert (await admin.patch(f"/invocations/{id}/purge")).status_code == 404, "its retention is over"

    story(tell)


@pytest.mark.parametrize(
    ("service", "change", "status", "message"),
    [
        ("Greeter", {"abort_timeout": "5"}, 422, "abort_timeout: expected a duration"),
        ("Greeter", {"abort_timeout": ""}, 422, "abort_timeout"),
        ("Greeter", {"abort_timeout": "1mo"}, 422, "use days or smaller"),
        ("Greeter", {"abort_timeout": "-5s"}, 422, "negative"),
        ("Greeter", {"abort_timeout": 5}, 422, "abort_timeout"),
        ("Greeter", {"public": "yes"}, 422, "public"),
        ("Greeter", [], 422, "object"),
        ("Greeter", {"journal_retntion": "12h", "public": False}, 422, "`journal_retntion`; known are public, idemp"),
        (
            "Greeter",
            {"workflow_completion_retention": "1h"},
            400,
            "modifying retention time for service type Service is unsupported",
        ),
        (
            "Cart",
            {"workflow_completion_retention": "1h"},
            400,
            "modifying retention time for service type VirtualObject is unsupported",
        ),
        ("No", {"public": True}, 404, "The requested service 'No' does not exist"),
    ],
)
def test_a_patch_that_makes_no_sense_changes_nothing(service: str, change: Any, status: int, message: str) -> None:
    async def tell(admin: Served) -> None:
        before = (await admin.http.get("/services")).json()
        answer = await admin.patch(f"/services/{service}", change)
        assert answer.status_code == status
        assert message in answer.json()["message"]
        assert (await admin.http.get("/services")).json() == before

    story(tell)


def test_a_workflow_has_a_completion_retention_to_patch() -> None:
    async def tell(admin: Served) -> None:
        answer = await admin.patch("/services/SignUp", {"workflow_completion_retention": "P2D"})
        assert answer.json()["workflow_completion_retention"] == "2d"

    story(tell)


# ---- state ----


def as_numbers(**values: bytes) -> dict[str, list[int]]:
    return {name: list(value) for name, value in values.items()}


def test_state_is_replaced_as_a_whole() -> None:
    async def tell(admin: Served) -> None:
        await admin.completed("Cart/add", "shoe", key="k")
        before = await admin.engine.get_state("Cart", "k")
        body = {"object_key": "k", "new_state": as_numbers(colour=b'"red"'), "version": before.version}
        answer = await admin.http.post("/services/Cart/state", json=body)
        assert (answer.status_code, answer.content) == (202, b"")
        assert await admin.engine.get_state("Cart", "k") == {"colour": "red"}

        answer = await admin.http.post("/services/Cart/state", json=body)
        assert answer.status_code == 409, "that version is gone"
        body = {"object_key": "k", "new_state": {}}
        assert (await admin.http.post("/services/Cart/state", json=body)).status_code == 202
        assert await admin.engine.get_state("Cart", "k") == {}

    story(tell)


def test_a_version_that_grows_stale_in_the_queue_is_refused_as_well() -> None:
    async def tell(admin: Served) -> None:
        await admin.reaches(await admin.send("Cart/hold", key="k"), "running")
        await admin.send("Cart/add", "shoe", key="k")
        body = {"object_key": "k", "new_state": as_numbers(n=b"1"), "version": state_version({})}
        answer = await admin.http.post("/services/Cart/state", json=body)
        assert answer.status_code == 202, "it waits for its turn, longer than the answer"
        admin.desk.gate.set()
        await admin.completed("Cart/add", "hat", key="k")
        assert await admin.engine.get_state("Cart", "k") == {"items": ["shoe", "hat"]}

    story(tell)


@pytest.mark.parametrize(
    ("service", "change", "status"),
    [
        ("Greeter", {"object_key": "k", "new_state": {}}, 400),
        ("No", {"object_key": "k", "new_state": {"a": [1]}}, 404),
        ("No", {"object_key": "k", "new_state": {}}, 202),
        ("Cart", {"object_key": "k", "new_state": {"a": [256]}}, 422),
        ("Cart", {"object_key": "k", "new_state": {"a": [-1]}}, 422),
        ("Cart", {"object_key": "k", "new_state": {"a": "1"}}, 422),
        ("Cart", {"new_state": {}}, 422),
        ("Cart", {"object_key": "k", "new_state": {}, "verson": "stale"}, 422),
        ("Cart", {"object_key": "k", "new_state": {}, "version": "stale"}, 409),
    ],
)
def test_state_that_cannot_be_set_is_refused(service: str, change: Any, status: int) -> None:
    async def tell(admin: Served) -> None:
        answer = await admin.http.post(f"/services/{service}/state", json=change)
        assert answer.status_code == status, answer.text

    story(tell)


def test_a_version_is_what_restates_clients_compute() -> None:
    assert state_version({"name": b"bob"}) == "tDqA04Lj3_qJ-PgNPTecXDGZgpwy6jm2Ni2BYqJIthM"
    assert state_version({"b": b"bbb", "a": b"aaa"}) == "RVM17P6x18Wp-JnzQ01BzmqCvhAunTOQI_az6Px3Zyk"
    assert state_version({}) == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"


# ---- deployments, and what is not here ----


def test_the_running_code_is_the_one_deployment() -> None:
    async def tell(admin: Served) -> None:
        [deployment] = (await admin.http.get("/deployments")).json()["deployments"]
        services = (await admin.http.get("/services")).json()["services"]
        assert {service["deployment_id"] for service in services} == {deployment["id"]}
        assert deployment["services"] == [{"name": one["name"], "revision": one["revision"]} for one in services]
        assert (await admin.http.get(f"/deployments/{deployment['id']}")).json() == {
            **deployment,
            "services": services,
        }
        assert (await admin.http.get(f"/deployments/dp_1{'0' * 22}")).status_code == 404
        assert (await admin.http.get("/deployments/no")).status_code == 400
        for method, path in (
            ("POST", "/deployments"),
            ("PATCH", f"/deployments/{deployment['id']}"),
            ("DELETE", f"/deployments/{deployment['id']}"),
        ):
            answer = await admin.http.request(method, path, json={"uri": "http://localhost:9080"})
            assert answer.status_code == 501
            assert "restart the process with the new code" in answer.json()["message"]

    story(tell)


def test_there_are_no_limit_rules_and_the_way_out_is_said() -> None:
    async def tell(admin: Served) -> None:
        answer = await admin.http.put("/limits/rules", json=[])
        assert answer.status_code == 501
        assert "max_concurrent_invocations" in answer.json()["message"]

    story(tell)
