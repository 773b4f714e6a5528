"""What a handler waits for, as a small expression over journal entries.

A node is an entry number, or `Any` / `All` of nodes. A suspended invocation is started again only when its
expression has come true, so that a handler waiting for a thousand calls is not replayed a thousand times.
"""

from typing import Literal

import msgspec


class Group(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="of"):
    """Several nodes: `any` is done with the first of them, `all` with the last.

    `all` with `fail_fast` is done as soon as one of its entries fails.
    """

    mode: Literal["any", "all"]
    nodes: "tuple[int | Group, ...]"
    fail_fast: bool = False
    #: Entries whose completion is the failure of an `any`: the timer of a time-out.
    failing: tuple[int, ...] = ()
    #: An `any` that hands its member on instead of raising what it raises.
    never_fails: bool = False


_codec = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(int | Group)


def encode(node: int | Group) -> bytes:
    """A node as it is stored with a suspended invocation."""
    return _codec.encode(node)


def decode(data: bytes) -> int | Group:
    """The node `encode` wrote."""
    node: int | Group = _decoder.decode(data)
    return node


def entries(node: int | Group) -> list[int]:
    """Every entry a node mentions."""
    if isinstance(node, int):
        return [node]
    return [entry for child in node.nodes for entry in entries(child)]


def reduce(node: int | Group, entry: int, ok: bool) -> int | Group | None:
    """What is left to wait for once `entry` has completed; None when the whole expression has come true."""
    return _reduce(node, entry, ok)[0]


def _reduce(node: int | Group, entry: int, ok: bool) -> tuple[int | Group | None, bool]:
    """The same, and whether what came true is a failure."""
    if isinstance(node, int):
        return (None, not ok) if node == entry else (node, False)
    left: list[int | Group] = []
    for child in node.nodes:
        rest, failed = _reduce(child, entry, ok)
        if rest is not None:
            left.append(rest)
        elif node.mode == "any":
            return None, not node.never_fails and (failed or entry in node.failing)
        elif node.fail_fast and failed:
            return None, True
    if not left:
        return None, False
    return msgspec.structs.replace(node, nodes=tuple(left)), False
