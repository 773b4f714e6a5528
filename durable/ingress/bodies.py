"""Bodies, as they are: stored once the handler's own serializer could read them, sent as they are stored."""

from durable.core.journal import Outcome
from durable.errors import SerializationError
from durable.runtime.registry import Registered
from durable.serde import ANY, BYTES_MARK, check_data, decoded, outward, unmarked
from durable.web.errors import BadRequest

_JSON = "application/json"
_BYTES = "application/octet-stream"


def input_of(handler: Registered, content_types: tuple[str, ...], body: bytes, *, local: bool = False) -> bytes:
    """The stored form of a body. A client of the control socket (`local`) may send any bytes to an untyped handler.

    Raises `BadRequest` where it has another content type than the handler takes, or there should be none;
    `SerializationError` for what the handler could not read, `ValueTooLargeError`.
    """
    expected, given = handler.input.content_type, content_types[0] if content_types else ""
    if len(content_types) > 1:
        raise BadRequest(400, "input validation error: there is more than one content-type")
    if not handler.has_input:
        if body or given:
            raise BadRequest(
                400, "input validation error: Expected body and content-type to be empty, because the handler takes "
                f"no input, but there are {len(body)} bytes with the content-type {given[:100]!r}",
            )  # fmt: skip
        return b""
    door = f"the argument of {handler.service}/{handler.name}"
    if not body:
        nothing = handler.nothing()
        if nothing is None:
            raise BadRequest(400, f"input validation error: Empty body not allowed: {door} is missing")
        return nothing
    media = given.partition(";")[0].strip().lower()
    if local and handler.input is ANY and media == _BYTES:
        check_data(marked := BYTES_MARK + body, door, handler.value_size_max)
        return marked
    if media != expected.lower() and given != expected:
        if not given:
            raise BadRequest(400, f"input validation error: Empty content-type: send {expected!r}")
        raise BadRequest(400, f"input validation error: Content-type {given[:100]!r} does not match {expected!r}")
    check_data(body, door, handler.value_size_max)
    if handler.input is ANY and body[0] == 0:  # which marks bytes where they are stored
        raise BadRequest(400, f"cannot read {door}: it is no JSON")
    decoded(handler.input.decode, body, door)
    return body


def output_of(handler: Registered | None, outcome: Outcome, *, exact: bool) -> tuple[str, bytes]:
    """The content type and the bytes of a result; no content type where there is nothing to send.

    Of a handler that this engine has no more, nobody knows what the bytes are. `exact`: for a client of ours, which
    reads what others could not.
    """
    data = outcome.value
    if handler is None:
        return _BYTES, data
    if handler.output is ANY and (raw := unmarked(data)) is not None:
        return _BYTES, raw
    return handler.output.content_type, data if exact else outward(handler.output, data)


def completion_of(content_types: tuple[str, ...], body: bytes, *, local: bool = False) -> bytes:
    """The stored form of what completes an awakeable, a promise or a signal; its type is not known here.

    What is no JSON, or says that it is bytes, is stored as bytes are that no annotation tells of: `bytes` and `Any`
    read it alike. A client of the control socket (`local`) sends them so. Raises `BadRequest` for a body that says it
    is JSON and is not.
    """
    media = content_types[0].partition(";")[0].strip().lower() if content_types else ""
    if media == _JSON:
        if not body or body[0] == 0:
            raise BadRequest(400, "the body is no JSON, as its content-type says")
        decoded(ANY.decode, body, "the body")
        return body
    if not body or (local and body.startswith(BYTES_MARK)):
        return body
    return BYTES_MARK + body if media == _BYTES or not _is_json(body) else body


def _is_json(body: bytes) -> bool:
    try:
        ANY.decode(body)
    except SerializationError:
        return False
    return body[0] != 0
