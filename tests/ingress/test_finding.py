"""Attach, output and lookup, by id, by idempotency key and by workflow, in both families of paths."""

import asyncio

from tests.ingress.support import JSON, UNKNOWN, Served, story


def ways(id: str, service: str, handler: str, idempotency_key: str) -> list[tuple[str, object]]:
    """Every way to ask for the result of an invocation: a path, and a body where it is POST."""
    return [
        (f"/restate/VERB/{id}", None),
        (f"/restate/invocation/{id}/VERB", None),
        (f"/restate/invocation/{service}/{handler}/{idempotency_key}/VERB", None),
        ("/restate/VERB", {"target": "invocation", "invocationId": id}),
        (
            "/restate/VERB",
            {
                "target": "idempotentInvocation",
                "service": service,
                "handler": handler,
                "idempotencyKey": idempotency_key,
                "scope": None,
                "unknown": 1,
            },
        ),
    ]


def test_every_way_finds_the_same_result() -> None:
    """C-073: 470 before it is there."""

    async def tell(ingress: Served) -> None:
        async def ask(path: str, body: object, verb: str) -> tuple[int, bytes, str]:
            path = path.replace("VERB", verb)
            answer = await (ingress.get(path) if body is None else ingress.post(path, body))
            return answer.status_code, answer.content, answer.headers.get("x-restate-id", "")

        sent = await ingress.post("/Echo/waiter/send", idempotency_key="k")
        id = sent.json()["invocationId"]
        asked = ways(id, "Echo", "waiter", "k")
        for path, body in asked:
            status, content, _ = await ask(path, body, "output")
            assert (status, b"has not completed yet" in content) == (470, True)
        attached = [asyncio.ensure_future(ask(path, body, "attach")) for path, body in asked]
        await ingress.engine.resolve_awakeable(await ingress.awakeable(), "done")
        assert set(await asyncio.gather(*attached)) == {(200, b'"done"', id)}
        for path, body in asked:
            for verb in ("attach", "output"):
                assert await ask(path, body, verb) == (200, b'"done"', id)
        answer = await ingress.get(f"/restate/output/{id}")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["idempotency-expires"].endswith("Z")

    story(tell)


def test_a_workflow_is_found_by_its_key() -> None:
    """C-046."""

    async def tell(ingress: Served) -> None:
        id = (await ingress.post("/SignUp/a%2Fb/run/send", "you ")).json()["invocationId"]
        target = {"target": "workflow", "workflowName": "SignUp", "workflowKey": "a/b"}
        assert (await ingress.get("/restate/workflow/SignUp/a%2Fb/output")).status_code == 470
        assert (await ingress.post("/restate/output", target)).status_code == 470
        attached = asyncio.ensure_future(ingress.get("/restate/workflow/SignUp/a%2Fb/attach"))
        await ingress.post("/SignUp/a%2Fb/answer", "are in")
        assert (await attached).json() == "you are in"
        for answer in (
            await ingress.get("/restate/workflow/SignUp/a%2Fb/output"),
            await ingress.post("/restate/attach", target),
        ):
            assert (answer.json(), answer.headers["x-restate-id"]) == ("you are in", id)
        assert (await ingress.post("/restate/lookup", target)).json() == {"invocationId": id}

    story(tell)


def test_bytes_and_failures_are_found_as_they_are() -> None:
    async def tell(ingress: Served) -> None:
        octets = {"content-type": "application/octet-stream"}
        sent = await ingress.http.post("/Echo/raw/send", content=b"\0\xff", headers=octets)
        answer = await ingress.get(f"/restate/attach/{sent.json()['invocationId']}")
        assert (answer.content, answer.headers["content-type"]) == (b"\0\xff", "application/octet-stream")
        sent = await ingress.post("/Echo/refuse/send")
        answer = await ingress.get(f"/restate/attach/{sent.json()['invocationId']}")
        assert (answer.status_code, answer.json()["metadata"]) == (400, {"key1": "a", "key2": "b"})
        assert answer.headers["x-restate-error-source"] == "invocation"
        sent = await ingress.post("/restate/send/Echo/greet?delay=1h", "you")
        id = sent.json()["invocationId"]
        attached = asyncio.ensure_future(ingress.get(f"/restate/attach/{id}"))
        await asyncio.sleep(0.01)
        await ingress.engine.cancel(id)
        assert ((await attached).status_code, (await attached).json()["source"]) == (409, "invocation")

    story(tell)


def test_what_names_no_invocation_is_refused() -> None:
    async def tell(ingress: Served) -> None:
        answer = await ingress.get(f"/restate/attach/{UNKNOWN}")
        assert (answer.status_code, answer.json()) == (
            404, {"code": 404, "message": "not found", "source": "invocation", "kind": "NotFoundError"},
        )  # fmt: skip
        assert answer.headers["x-restate-id"] == UNKNOWN
        answer = await ingress.get(f"/restate/output/{UNKNOWN}")
        assert answer.json() == {"code": 404, "message": "invocation not found", "source": "ingress"}
        for verb in ("attach", "output"):
            assert (await ingress.get(f"/restate/invocation/Echo/greet/none/{verb}")).status_code == 404
            assert (await ingress.get(f"/restate/workflow/Nope/w/{verb}")).status_code == 404
            for bad in ("inv_1", "nonsense", UNKNOWN + "0", "%00", "sign_1" + "0" * 34):
                answer = await ingress.get(f"/restate/{verb}/{bad}")
                assert (answer.status_code, "bad invocation id" in answer.text) == (400, True)
            assert (await ingress.post(f"/restate/{verb}/{UNKNOWN}")).status_code == 405
            assert (await ingress.get(f"/restate/{verb}")).status_code == 405
        for verb in ("attach", "output", "lookup"):
            for content in (
                b"", b"{", b"[]", b"{}", b'{"target":"what"}', b'{"target":"workflow"}', b"[" * 100_000, b"\xff",
                b'{"target":"invocation","invocationId":1}', b'{"target":"invocation","invocationId":"x"}',
                b'{"target":"workflow","workflowName":"SignUp","workflowKey":"a","scope":"s"}',
                b'{"target":"workflow","workflowName":"SignUp","workflowKey":"\\u0000"}',
                b'{"target":"idempotentInvocation","service":"Echo","handler":"greet","idempotencyKey":"\\ud800"}',
            ):  # fmt: skip
                answer = await ingress.http.post(f"/restate/{verb}", content=content, headers=JSON)
                assert (answer.status_code, answer.json()["source"]) == (400, "ingress"), (content[:60], answer.text)
            long = b'{"target":"invocation","invocationId":"' + b"a" * 600_000 + b'"}'
            assert (await ingress.http.post(f"/restate/{verb}", content=long)).status_code == 413

    story(tell)


def test_an_id_is_looked_up_whether_it_exists_or_not() -> None:
    async def tell(ingress: Served) -> None:
        target = {"target": "idempotentInvocation", "service": "Cart", "key": "k", "handler": "add"}
        before = (await ingress.post("/restate/lookup", {**target, "idempotencyKey": "i"})).json()["invocationId"]
        called = await ingress.post("/Cart/k/add", 1, idempotency_key="i")
        assert called.headers["x-restate-id"] == before
        itself = {"target": "invocation", "invocationId": UNKNOWN}
        assert (await ingress.post("/restate/lookup", itself)).json() == {"invocationId": UNKNOWN}
        nowhere = {"target": "workflow", "workflowName": "Nope", "workflowKey": "w"}
        assert (await ingress.post("/restate/lookup", nowhere)).status_code == 200

    story(tell)
