"""The object you embed, in parts: what it is and invokes, what it lets you do, what it lets you see."""

from durable.engine.engine import Engine
from durable.engine.roles import Role

__all__ = ["Engine", "Role"]
