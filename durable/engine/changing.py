"""A change of a service's options at run time: what was asked for is checked, then laid over what was set before."""

from collections.abc import Mapping
from typing import cast

import msgspec

from durable.core.invocation import Flavor
from durable.errors import DeclarationError, InvalidRequestError, NotFoundError
from durable.runtime.registry import Registry
from durable.service import Configuration, Options, Settings, settings_of


class Change(msgspec.Struct, frozen=True):
    """What `Engine.configure` was asked for."""

    #: The options that were given a value.
    said: Settings
    #: The fields that were given None: the class decides them again.
    reset: Mapping[str, None]

    def over(self, before: Settings) -> str:
        """What is configured from now on, as it is stored."""
        return msgspec.json.encode(self.said.over(msgspec.structs.replace(before, **self.reset))).decode()


def change_of(registry: Registry, service: str, options: Configuration) -> Change:
    """The change these options ask for. Raises `NotFoundError`, `InvalidRequestError`."""
    if not registry.has(service):
        raise NotFoundError(f"this engine has no service {service}")
    unknown = options.keys() - Configuration.__annotations__.keys()
    if unknown:
        known = ", ".join(Configuration.__annotations__)
        raise InvalidRequestError(
            f"configure: {', '.join(sorted(unknown))} cannot be set at run time; what can: {known}"
        )
    if "workflow_completion_retention" in options and not registry.has(service, Flavor.WORKFLOW):
        raise InvalidRequestError(
            f"configure: {service} is not a workflow, so it has no workflow_completion_retention"
        )
    said = {name: value for name, value in options.items() if value is not None}
    try:
        changes = settings_of(cast(Options, said), "configure")
    except DeclarationError as error:
        raise InvalidRequestError(str(error)) from None
    fields = {name: name if name == "public" else f"{name}_ms" for name in options}
    return Change(changes, {fields[name]: None for name, value in options.items() if value is None})
