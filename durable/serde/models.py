"""pydantic models, and what contains them."""

import functools
from typing import Any, Final

from durable.serde.depth import MAX_DEPTH_PYDANTIC
from durable.serde.documents import json_serde
from durable.serde.hints import parts
from durable.serde.model_moments import reading_zones, with_zones
from durable.serde.serde import Serde

#: The first pydantic that can be told to refuse a value of another type than the annotation's.
PYDANTIC_MIN: Final = (2, 7)


def mentions_pydantic(annotation: Any, seen: dict[int, Any]) -> bool:
    """Whether only pydantic reads it."""
    if id(annotation) in seen:
        return False
    seen[id(annotation)] = annotation  # which keeps it: no other has its id
    annotation = getattr(annotation, "__value__", annotation)
    if hasattr(annotation, "__pydantic_core_schema__") or hasattr(annotation, "__get_pydantic_core_schema__"):
        return True
    if type(annotation).__module__.startswith(("pydantic.", "annotated_types")):  # Field() in an Annotated
        return True
    return any(mentions_pydantic(part, seen) for part in parts(annotation, structs=False))


def pydantic_serde(annotation: Any) -> Serde[Any]:
    """By alias, without computed fields. Raises whatever pydantic does for a type that it does not know."""
    import pydantic

    if tuple(map(int, pydantic.VERSION.split(".")[:2])) < PYDANTIC_MIN:
        raise TypeError(
            f"pydantic {pydantic.VERSION} is too old, {'.'.join(map(str, PYDANTIC_MIN))} or newer is needed"
        )
    adapter = pydantic.TypeAdapter[Any](annotation)
    # round_trip leaves out computed fields, which a model with extra="forbid" would not take back;
    # without "error", a value of another type is written with a warning that no one reads
    write = functools.partial(adapter.dump_json, by_alias=True, round_trip=True, warnings="error")
    schema = functools.partial(_pydantic_schema, adapter)
    plain = functools.partial(adapter.dump_python, by_alias=True, round_trip=True, warnings="none")
    return json_serde(
        annotation, with_zones(write, plain), reading_zones(adapter.validate_json), schema, plain, MAX_DEPTH_PYDANTIC,
        usual=write,
    )  # fmt: skip


def _pydantic_schema(adapter: Any) -> dict[str, Any] | None:
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):
        """Leaves out, without a warning, a default that JSON has no form for."""

        ignored_warning_kinds = GenerateJsonSchema.ignored_warning_kinds | {"non-serializable-default"}

    schema: dict[str, Any] = adapter.json_schema(schema_generator=Quiet)
    return schema
