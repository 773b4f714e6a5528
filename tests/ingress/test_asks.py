"""What a path asks for: both families of Restate's ingress, as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.ingress.asks import (
    Ask,
    Complete,
    Describe,
    Health,
    IdempotentTarget,
    InvocationTarget,
    Invoke,
    Lookup,
    Result,
    Settle,
    Signal,
    WorkflowTarget,
    parse,
)
from durable.web.errors import BadRequest

KEYED = {"Echo": False, "Cart": True, "SignUp": True, "R\u00e9": False, "send": False}

ASKS: list[tuple[str, Ask]] = [
    ("/Echo/greet", Invoke("Echo", None, "greet")),
    ("/Echo/greet/", Invoke("Echo", None, "greet")),
    ("/Echo/greet/send", Invoke("Echo", None, "greet", send=True)),
    ("/Echo/send", Invoke("Echo", None, "send")),
    ("/Echo/send/send", Invoke("Echo", None, "send", send=True)),
    ("/send/send", Invoke("send", None, "send")),
    ("/Cart/k/add", Invoke("Cart", "k", "add")),
    ("/Cart/k/send", Invoke("Cart", "k", "send")),
    ("/Cart/send/add", Invoke("Cart", "send", "add")),
    ("/Cart/k/add/send", Invoke("Cart", "k", "add", send=True)),
    ("/restate/call/Echo/greet", Invoke("Echo", None, "greet")),
    ("/restate/send/Echo/greet", Invoke("Echo", None, "greet", send=True)),
    ("/restate/call/Cart/k/add", Invoke("Cart", "k", "add")),
    ("/restate/send/Cart/k/add", Invoke("Cart", "k", "add", send=True)),
    ("/restate/call/R%C3%A9/greet", Invoke("R\u00e9", None, "greet")),
    # keys
    ("/Cart//add", Invoke("Cart", "", "add")),
    ("/Cart/a%2Fb/add", Invoke("Cart", "a/b", "add")),
    ("/Cart/%2F%2f/add", Invoke("Cart", "//", "add")),
    ("/Cart/a%20b+c/add", Invoke("Cart", "a b+c", "add")),
    ("/Cart/%E2%82%AC/add", Invoke("Cart", "\u20ac", "add")),
    ("/Cart/%25/add", Invoke("Cart", "%", "add")),
    ("/Cart/%252F/add", Invoke("Cart", "%2F", "add")),
    ("/Cart/%zz%2/add", Invoke("Cart", "%zz%2", "add")),
    ("/Cart/%00%0A/add", Invoke("Cart", "\0\n", "add")),
    ("/Cart/../add", Invoke("Cart", "..", "add")),
    ("/Cart/;,:@&=$!*'()/add", Invoke("Cart", ";,:@&=$!*'()", "add")),
    # results
    ("/restate/attach", Result(None, wait=True)),
    ("/restate/output", Result(None, wait=False)),
    ("/restate/attach/inv_1", Result(InvocationTarget("inv_1"), wait=True)),
    ("/restate/output/inv_1", Result(InvocationTarget("inv_1"), wait=False)),
    ("/restate/invocation/inv_1/attach", Result(InvocationTarget("inv_1"), wait=True)),
    ("/restate/invocation/inv_1/output", Result(InvocationTarget("inv_1"), wait=False)),
    ("/restate/invocation/Echo/greet/i/output", Result(IdempotentTarget("Echo", "greet", "i"), wait=False)),
    ("/restate/invocation/Echo/greet/a%2Fb/attach", Result(IdempotentTarget("Echo", "greet", "a/b"), wait=True)),
    ("/restate/invocation/Cart/k/add/i/output", Result(IdempotentTarget("Cart", "add", "i", "k"), wait=False)),
    ("/restate/workflow/SignUp/w/attach", Result(WorkflowTarget("SignUp", "w"), wait=True)),
    ("/restate/workflow/SignUp/a%2Fb/output", Result(WorkflowTarget("SignUp", "a/b"), wait=False)),
    ("/restate/workflow/Nope/w/output", Result(WorkflowTarget("Nope", "w"), wait=False)),
    ("/restate/lookup", Lookup()),
    # completions
    ("/restate/awakeables/sign_1/resolve", Complete("sign_1", ok=True)),
    ("/restate/awakeables/sign_1/reject", Complete("sign_1", ok=False)),
    ("/restate/a/sign_1/resolve", Complete("sign_1", ok=True)),
    ("/restate/promises/SignUp/a%2Fb/p/resolve", Settle("SignUp", "a/b", "p", ok=True)),
    ("/restate/promises/SignUp/w/p/reject", Settle("SignUp", "w", "p", ok=False)),
    ("/restate/signals/inv_1/go/resolve", Signal("inv_1", "go", ok=True)),
    ("/restate/signals/inv_1/go/reject", Signal("inv_1", "go", ok=False)),
    # the rest
    ("/restate/health", Health()),
    ("/restate/health/", Health()),
    ("/restate/openapi/Echo", Describe("Echo")),
]  # fmt: skip

REFUSED: list[tuple[str, int, str]] = [
    ("", 400, "bad path"), ("/", 400, "bad path: /"), ("/Echo", 400, "bad path: /Echo"), ("/Echo/", 400, "bad path"),
    ("//Echo/greet", 400, "bad path"), ("Echo/greet/x", 400, "bad path"), ("/restate", 400, "bad path: /restate"),
    ("/restate/", 400, "bad path: /restate/"), ("///", 400, "bad path"), ("//", 400, "bad path"),
    ("/Echo/greet/x", 400, "bad path"), ("/Echo/greet/send/x", 400, "bad path"), ("/Cart/add", 400, "bad path"),
    ("/Cart/k/add/x", 400, "bad path"), ("/Cart/k/add/send/x", 400, "bad path"), ("/Cart/a/b/add", 400, "bad path"),
    ("/Nope/x", 404, "service 'Nope' not found"), ("/Nope", 400, "bad path"), ("/Nope/a/b/c", 404, "not found"),
    ("/restate/call", 400, "/restate/call/:service/:handler"), ("/restate/send/Echo", 400, "/restate/call/:service"),
    ("/restate/call/Nope/x", 404, "service 'Nope' not found"), ("/restate/call/Echo/greet/x", 400, "bad path"),
    ("/restate/call/Cart/add", 400, "bad path"), ("/restate/call/Cart/a/b/add", 400, "bad path"),
    ("/restate/attach/a/b", 400, "bad path"), ("/restate/lookup/x", 400, "bad path"),
    ("/restate/invocation", 400, "/restate/invocation/:invocation_id"), ("/restate/invocation/inv_1", 400, "bad"),
    ("/restate/invocation/inv_1/x", 404, "not found"), ("/restate/invocation/Nope/a/b/output", 404, "'Nope'"),
    ("/restate/invocation/Echo/greet/output", 400, "bad path"), ("/restate/invocation/Cart/a/b/output", 400, "bad"),
    ("/restate/invocation/Echo/greet/i/x", 404, "not found"),
    ("/restate/workflow/SignUp/w", 400, "/restate/workflow/:name"), ("/restate/workflow/SignUp/w/x", 404, "not"),
    ("/restate/workflow/SignUp/w/output/x", 400, "bad path"),
    ("/restate/awakeables/sign_1", 400, "/restate/awakeables/:id"), ("/restate/a/sign_1/x", 404, "not found"),
    ("/restate/promises/SignUp/w/p", 400, "/restate/promises/:workflow"), ("/restate/signals/i/n", 400, "bad path"),
    ("/restate/x", 404, "not found"), ("/restate/x/y", 404, "not found"), ("/restate/health/x", 404, "not found"),
    ("/restate/openapi", 404, "not found"), ("/restate/scope/a/call/Echo/greet", 400, "scoped invocations"),
    ("/restate/call/Cart/%FF/add", 400, "no valid UTF-8"), ("/%FF/greet", 400, "no valid UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "asked"), ASKS)
def test_a_path_says_what_it_asks_for(path: str, asked: Ask) -> None:
    assert parse(path, KEYED.get) == asked


@pytest.mark.parametrize(("path", "status", "message"), REFUSED)
def test_a_path_of_another_form_is_told_the_right_one(path: str, status: int, message: str) -> None:
    """C-085."""
    with pytest.raises(BadRequest) as refused:
        parse(path, KEYED.get)
    assert (refused.value.status, message in refused.value.message) == (status, True), refused.value.message


@given(st.text(alphabet=list("/%2FCartEchosend.restate\u20ac\0 awakeables"), max_size=40))
def test_every_path_is_understood_or_refused(path: str) -> None:
    try:
        asked = parse(path, KEYED.get)
    except BadRequest as refused:
        assert refused.status in (400, 404)
    else:
        assert asked.methods
