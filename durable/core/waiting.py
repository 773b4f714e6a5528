"""What a handler waits for, as a small expression over journal entries.

A node is an entry number, or `Any` / `All` of nodes. A suspended invocation is started again only when its
expression has come true, so that a handler waiting for a thousand calls is not replayed a thousand times. While it is
in memory the expression is a `Awaited`, in which an entry is found at once.
"""

from collections.abc import Container
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


#: An expression with no more places than this is stored again whenever one of its entries has come.
SHORT = 64


class Awaited:
    """What a handler still waits for. Entries come one by one, and each costs the same, however many there are."""

    __slots__ = ("_due", "_left", "_places", "_root", "_stored")

    def __init__(self, node: int | Group) -> None:
        #: By entry, where it stands: in which group, and at which place of that.
        self._places: dict[int, list[tuple[_Part, int]]] = {}
        self._root = _Part(Group("all", (node,)), None, 0)
        #: How many places are left where an entry is mentioned; how many were when it was stored last; and whether
        #: what is left does not follow from what was stored then.
        self._left, self._due = 0, False
        empty: list[_Part] = []
        self._index(self._root, empty)
        for part in empty:  # an empty group waits for nothing
            if not part.ended:
                self._ended(part, failed=False)
        self._left = self._stored = len(self.entries())

    def _index(self, part: "_Part", empty: "list[_Part]") -> None:
        for place, child in enumerate(part.group.nodes):
            if isinstance(child, int):
                part.left[place] = child
                self._places.setdefault(child, []).append((part, place))
            else:
                inner = part.left[place] = _Part(child, part, place)
                self._index(inner, empty)
        if not part.left:
            empty.append(part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Awaited) and other.node == self.node

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Awaited({self.node!r})"

    @property
    def over(self) -> bool:
        """Whether the whole expression has come true."""
        return not self._root.left

    @property
    def node(self) -> int | Group | None:
        """What is left, as an expression; None when it has come true."""
        return None if self.over else self._root.rest().nodes[0]

    def entries(self) -> list[int]:
        """Every entry that it still waits for."""
        node = self.node
        return [] if node is None else entries(node)

    def came(self, entry: int, ok: bool) -> bool:
        """Note that an entry has completed; returns whether anything waited for it."""
        changed = False
        for part, place in self._places.pop(entry, ()):
            if not part.ended and place in part.left:
                changed = True
                self._left -= 1
                self._take(part, place, failed=not ok, entry=entry)
        return changed

    def without(self, is_open: Container[int]) -> None:
        """Take away the entries that have completed since it was stored; the last one would have woken somebody."""
        waits_for = self.entries()
        if any(entry in is_open for entry in waits_for):
            for entry in waits_for:
                if entry not in is_open:
                    self.came(entry, True)

    def worth_storing(self) -> bool:
        """Whether it is to be stored again, now that an entry has come, after which it counts as stored.

        That costs as much as it is long: of many entries it is stored as often as half of them have come, and
        where `without` would not come to the same.
        """
        if self._left > SHORT and not self._due and 2 * self._left > self._stored:
            return False
        self._stored, self._due = self._left, False
        return True

    def _take(self, part: "_Part", place: int, *, failed: bool, entry: int) -> None:
        """A member has come true: so may have what it belongs to."""
        del part.left[place]
        group = part.group
        if group.mode == "any":
            self._ended(part, failed=not group.never_fails and (failed or entry in group.failing), entry=entry)
        elif not part.left or (group.fail_fast and failed):
            if part.left:
                self._due = True  # it is over, though not everything in it has come
            self._ended(part, failed=group.fail_fast and failed, entry=entry)

    def _ended(self, part: "_Part", *, failed: bool, entry: int = 0) -> None:
        self._left -= part.end()
        if part.outer is not None:
            self._take(part.outer, part.place, failed=failed, entry=entry)


class _Part:
    """A group, and what is left of it."""

    __slots__ = ("ended", "group", "left", "outer", "place")

    def __init__(self, group: Group, outer: "_Part | None", place: int) -> None:
        self.group = group
        self.outer = outer
        self.place = place
        self.left: dict[int, int | _Part] = {}
        self.ended = False

    def end(self) -> int:
        """Nothing of it is waited for any more; returns how many places that were."""
        left, self.left, self.ended = self.left, {}, True
        return sum(child.end() if isinstance(child, _Part) else 1 for child in left.values())

    def rest(self) -> Group:
        nodes = tuple(child if isinstance(child, int) else child.rest() for child in self.left.values())
        return msgspec.structs.replace(self.group, nodes=nodes)
