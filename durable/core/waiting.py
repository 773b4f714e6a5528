"""What a handler waits for, as a small expression over journal entries.

A node is an entry number, or `Any` / `All` of nodes. A suspended invocation is started again only when its
expression has come true, so that a handler waiting for a thousand calls is not replayed a thousand times.
"""

from typing import Literal

import msgspec


class Group(msgspec.Struct, frozen=True, tag_field="of"):
    """Several nodes: `any` is done with the first of them, `all` with the last.

    `all` with `fail_fast` is done as soon as one of its entries fails.
    """

    mode: Literal["any", "all"]
    nodes: "tuple[int | Group, ...]"
    fail_fast: bool = False


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
    if isinstance(node, int):
        return None if node == entry else node
    left: list[int | Group] = []
    for child in node.nodes:
        rest = reduce(child, entry, ok)
        if rest is not None:
            left.append(rest)
            continue
        # whether a group that came true is a failure is not known here; waking too early is safe, the replay waits on
        if node.mode == "any" or (node.fail_fast and (not ok or isinstance(child, Group))):
            return None
    if not left:
        return None
    return Group(node.mode, tuple(left), node.fail_fast)
