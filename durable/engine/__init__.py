"""The object you embed, in parts: what it is and invokes, what it lets you do, what it lets you see."""

from durable.engine.engine import Engine

__all__ = ["Engine"]
