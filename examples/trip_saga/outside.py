"""The companies outside, and all that they were asked: one line each in a file that is only appended to.

Like any good booking system they know every booking by a reference that the customer chose. Asked again for what they
have done already, they say yes and do nothing: that is what makes a step that runs twice harmless.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Literal

import msgspec

#: What was asked for.
Ask = Literal["book", "cancel", "sign"]
#: What came of it. The last two change nothing.
Result = Literal["done", "done before", "never booked"]


class Line(msgspec.Struct, frozen=True):
    """One request to a company."""

    #: Seconds since the epoch.
    at: float
    #: The process that asked.
    pid: int
    company: str
    ask: Ask
    reference: str
    result: Result


class World:
    """The file."""

    def __init__(self, path: Path, answer_s: float = 0.0) -> None:
        self.path = path
        #: How long an answer is on its way, while what was asked for has been done.
        self.answer_s = answer_s

    def lines(self) -> list[Line]:
        """Everything so far."""
        text = self.path.read_bytes() if self.path.exists() else b""
        return [msgspec.json.decode(line, type=Line) for line in text.splitlines()]

    def append(self, line: Line) -> None:
        """Add a line with a single write: it is there whole or not at all, and a SIGKILL cannot take it back."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, msgspec.json.encode(line) + b"\n")
        finally:
            os.close(file)


class Company:
    """Somebody else's booking system. Its methods are the steps of our handlers."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world

    async def book(self, reference: str) -> None:
        """Book, once for each reference."""
        await self.request("book", reference)

    async def cancel(self, reference: str) -> None:
        """Undo a booking, once for each reference; fine if there is none."""
        await self.request("cancel", reference)

    async def ask_to_sign(self, reference: str, signature: str) -> None:
        """Have somebody resolve the awakeable `signature`, some day. (In this story, that day never comes.)"""
        await self.request("sign", reference)

    async def request(self, ask: Ask, reference: str) -> None:
        """Do it unless it is done, and answer. There is no await between the look and the line."""
        await asyncio.sleep(self.world.answer_s / 4)
        done = {line.ask for line in self.world.lines() if line.reference == reference and line.result == "done"}
        result: Result = "done"
        if ask in done:
            result = "done before"
        elif ask == "cancel" and "book" not in done:
            result = "never booked"
        self.world.append(Line(time.time(), os.getpid(), self.name, ask, reference, result))
        await asyncio.sleep(self.world.answer_s)
