"""What a client of ours and an engine say to each other, besides what Restate's wire format has words for.

A request to the control socket may say more than HTTP has room for: as JSON, in one header.

Handlers then get these headers and no others.
"""

import msgspec

#: The header of a request that has it.
REQUEST = b"x-durable-request"

#: The header of an answer that tells: the idempotency key was used before, with another input.
INPUT_DIFFERS = "idempotency-input-differs"

#: The code of what is rejected, where the query of the request names no other.
REJECTED = 500

#: Who accepts this media type gets views as Python has them, and the engine's own words.
EXACT = "application/vnd.durable.exact+json"


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of it."""

    #: What the invocation is to be called where nothing determines that: so it can be asked for again.
    id: str = ""
    headers: dict[str, str] = {}
    #: Any text; the header of that name has ASCII only.
    idempotency_key: str | None = None
    #: Whether it is asked for as from outside: then it may invoke public handlers only.
    outside: bool = False
    #: Whether a result is to be sent as it is stored.
    stored: bool = False
    #: How long ago it was asked for the first time, where it was: it may have been accepted then.
    repeated_after_ms: int | None = None


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Envelope).decode
