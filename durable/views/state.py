"""The state of one key as a person reads it."""

from collections.abc import Mapping
from typing import Any

from durable.core.state_version import state_version
from durable.serde import serde_for


class StateView(dict[str, Any]):
    """The values of one key by name, and which state that is."""

    #: Changes whenever a value does: `Engine.patch_state(..., expected_version=state.version)`.
    version: str

    def __init__(self, values: Mapping[str, bytes]) -> None:
        decode = serde_for(Any).decode
        super().__init__({name: decode(value) for name, value in sorted(values.items())})
        self.version = state_version(values)
