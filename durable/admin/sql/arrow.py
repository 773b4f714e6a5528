"""A table as an Arrow IPC stream, which Restate's command line reads: enough of the format for a result of SQL.

A stream is a message with the schema, messages with batches of rows, and an end mark. Messages are FlatBuffers:
tables are written back to front into one buffer, and refer to what was written before by distance.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal

Kind = Literal["int", "float", "bool", "text", "binary"]

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
BATCH_ROWS = 4096
_VERSION = 4  # MetadataVersion.V5
_SCHEMA, _RECORD_BATCH = 1, 3  # MessageHeader
_TYPE_IDS = {"int": 2, "float": 3, "binary": 4, "text": 5, "bool": 6}
_END = struct.pack("<II", 0xFFFFFFFF, 0)


def stream(columns: Sequence[tuple[str, Kind]], rows: Sequence[Sequence[Any]]) -> Iterator[bytes]:
    """The pieces of a stream."""
    yield _message(_SCHEMA, lambda buffer: _schema(buffer, columns), b"")
    for start in range(0, len(rows), BATCH_ROWS):
        yield _batch(columns, rows[start : start + BATCH_ROWS])
    yield _END


class _Buffer:
    """A FlatBuffer under construction. Positions are counted from its end, which stays where it is."""

    def __init__(self) -> None:
        self.data = bytearray()

    def _prepend(self, piece: bytes, align: int) -> int:
        """Put a piece in front, so that its first byte is aligned; returns where it begins."""
        self.data[:0] = piece + bytes(-(len(self.data) + len(piece)) % align)
        return len(self.data)

    def text(self, value: str) -> int:
        """A string."""
        data = value.encode() + b"\0"
        return self._prepend(struct.pack("<I", len(data) - 1) + data + bytes(-len(data) % 4), 4)

    def references(self, positions: Sequence[int]) -> int:
        """A vector of references to what was written before."""
        end = len(self.data) + -len(self.data) % 4
        size = 4 + 4 * len(positions)
        offsets = [end + size - 4 - 4 * index - position for index, position in enumerate(positions)]
        self.data[:0] = bytes(end - len(self.data))
        return self._prepend(struct.pack(f"<I{len(offsets)}I", len(offsets), *offsets), 4)

    def structs(self, pairs: Sequence[tuple[int, int]]) -> int:
        """A vector of structs of two 64-bit numbers each."""
        flat = [number for pair in pairs for number in pair]
        self.data[:0] = bytes(-len(self.data) % 8)
        body = struct.pack(f"<{len(flat)}q", *flat)
        return self._prepend(struct.pack("<I", len(pairs)) + body, 4)

    def table(self, fields: Sequence[tuple[str, int] | None]) -> int:
        """A table with these fields in their order: a struct code and a number, "ref" and a position, or absent."""
        present = [(slot, code, value) for slot, field in enumerate(fields) if field for code, value in [field]]
        present.sort(key=lambda one: -_SIZES[one[1]])  # the largest first: no padding inside
        offsets, size = [0] * len(fields), 4
        if any(_SIZES[code] == 8 for _, code, _ in present):
            size = 8  # the reference to the vtable, and padding
        for slot, code, _ in present:
            offsets[slot] = size
            size += _SIZES[code]
        size += -size % 8
        self.data[:0] = bytes(-len(self.data) % 8)
        position = len(self.data) + size
        body = bytearray(size)
        for slot, code, value in present:
            if code == "ref":
                value = position - offsets[slot] - value
                struct.pack_into("<I", body, offsets[slot], value)
            else:
                struct.pack_into(f"<{code}", body, offsets[slot], value)
        vtable = struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), size, *offsets)
        vtable += bytes(-len(vtable) % 8)
        struct.pack_into("<i", body, 0, len(vtable))
        self.data[:0] = vtable + body
        return position

    def finish(self, root: int) -> bytes:
        """The whole buffer, beginning with a reference to its root."""
        self.data[:0] = bytes(-(len(self.data) + 4) % 8)
        return struct.pack("<I", len(self.data) + 4 - root) + bytes(self.data)


_SIZES = {"q": 8, "i": 4, "ref": 4, "h": 2, "B": 1}


def _schema(buffer: _Buffer, columns: Sequence[tuple[str, Kind]]) -> int:
    fields = buffer.references([_field(buffer, name, kind) for name, kind in columns])
    return buffer.table([("h", 0), ("ref", fields)])


def _field(buffer: _Buffer, name: str, kind: Kind) -> int:
    children = buffer.references([])
    match kind:
        case "int":
            type_ = buffer.table([("i", 64), ("B", 1)])
        case "float":
            type_ = buffer.table([("h", 2)])
        case _:
            type_ = buffer.table([])
    text = buffer.text(name)
    return buffer.table([("ref", text), ("B", 1), ("B", _TYPE_IDS[kind]), ("ref", type_), None, ("ref", children)])


def _message(header_type: int, header: Any, body: bytes) -> bytes:
    buffer = _Buffer()
    written = header(buffer)
    root = buffer.table([("h", _VERSION), ("B", header_type), ("ref", written), ("q", len(body))])
    metadata = buffer.finish(root)
    metadata += bytes(-len(metadata) % 8)
    return struct.pack("<II", 0xFFFFFFFF, len(metadata)) + metadata + body


def _batch(columns: Sequence[tuple[str, Kind]], rows: Sequence[Sequence[Any]]) -> bytes:
    nodes: list[tuple[int, int]] = []
    places: list[tuple[int, int]] = []
    body = bytearray()
    for index, (_, kind) in enumerate(columns):
        values = [row[index] for row in rows]
        nodes.append((len(values), sum(value is None for value in values)))
        for piece in [_bits([value is not None for value in values]), *_VALUES[kind](values)]:
            places.append((len(body), len(piece)))
            body += piece + bytes(-len(piece) % 8)

    def header(buffer: _Buffer) -> int:
        buffers = buffer.structs(places)
        counts = buffer.structs(nodes)
        return buffer.table([("q", len(rows)), ("ref", counts), ("ref", buffers)])

    return _message(_RECORD_BATCH, header, bytes(body))


def _bits(flags: Sequence[bool]) -> bytes:
    number = sum(1 << index for index, flag in enumerate(flags) if flag)
    return number.to_bytes((len(flags) + 7) // 8, "little")


def _ints(values: Sequence[Any]) -> list[bytes]:
    return [struct.pack(f"<{len(values)}q", *(value or 0 for value in values))]


def _floats(values: Sequence[Any]) -> list[bytes]:
    return [struct.pack(f"<{len(values)}d", *(value or 0.0 for value in values))]


def _bools(values: Sequence[Any]) -> list[bytes]:
    return [_bits([bool(value) for value in values])]


def _blobs(values: Sequence[bytes]) -> list[bytes]:
    ends, total = [0], 0
    for value in values:
        total += len(value)
        ends.append(total)
    return [struct.pack(f"<{len(ends)}i", *ends), b"".join(values)]


def _texts(values: Sequence[Any]) -> list[bytes]:
    return _blobs([b"" if value is None else str(value).encode("utf-8", "replace") for value in values])


def _binaries(values: Sequence[Any]) -> list[bytes]:
    return _blobs([value or b"" for value in values])


_VALUES: dict[str, Any] = {"int": _ints, "float": _floats, "bool": _bools, "text": _texts, "binary": _binaries}
