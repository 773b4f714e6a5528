"""Who may ask the admin API for what. The rules, in this order:

1. `Host` names this server, on reads too: a page that rebinds its name to a loopback address cannot read journals.
2. Path, query and headers are of a reasonable size, and the path has no control characters.
3. The bearer token is the right one, where there is one.
4. It comes from no other origin, where a browser names one: on reads too, whose answers a CORS middleware of the
   application would hand to any page.
5. What changes something comes from no other site, as far as a browser tells.
6. The body is not too long.
7. Where the route takes the method: the body of what changes something is JSON, no form and no plain text, which a
   browser sends anywhere without asking first.
"""

from durable.web.security import (
    SAFE,
    Facts,
    Policy,
    Refusal,
    foreign,
    foreign_origin,
    too_long_a_body,
    too_much,
    wrong_host,
    wrong_token,
)


def refusal_of(facts: Facts, policy: Policy) -> Refusal | None:
    """Why the admin API refuses a request, or None where it may go on."""
    refusal = wrong_host(facts, policy) or too_much(facts, policy.limits)
    if refusal is not None:
        return refusal
    if any(ord(char) < 32 or ord(char) == 127 for char in facts.path):
        return Refusal(400, "the path has control characters")
    refusal = wrong_token(facts, policy) or foreign_origin(facts)
    if refusal is None and facts.method not in SAFE:
        refusal = foreign(facts)
    return refusal or too_long_a_body(facts, policy.limits)


def not_json(facts: Facts) -> Refusal | None:
    """Why what a request brings to its route is refused, or None where it may go on."""
    if facts.method in SAFE:
        return None
    if not facts.has_body and not facts.content_type and facts.method != "POST":
        return None  # a browser asks first before it sends PATCH, PUT or DELETE, and is not answered
    given = facts.content_type[0].partition(";")[0].strip().lower() if len(facts.content_type) == 1 else ""
    if given == "application/json":
        return None
    return Refusal(415, "what changes something is sent with Content-Type: application/json")
