"""Traces and metrics for the tools that people already run. It needs `opentelemetry-api` alone; the host has the SDK.

This module imports nothing of OpenTelemetry, so a process that does not use it pays nothing.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from durable.errors import UsageError
from durable.runtime.observer import Observer

if TYPE_CHECKING:
    from durable.telemetry.spans import Traces as Traces

__all__ = ["Traces", "carry_on", "observers"]


def observers(wanted: bool | None, given: Iterable[Observer] = ()) -> list[Observer]:
    """The observers that the process wants: `Traces` if a tracer provider is installed, or if `wanted` is True.

    There are none if `wanted` is False, or if `given` already has one. Raises `UsageError` if `wanted` is True and
    `opentelemetry-api` is missing.
    """
    if wanted not in (None, True, False):
        raise UsageError(f"telemetry must be True, False or None, not {wanted!r}")
    if wanted is False or (wanted is None and "opentelemetry.trace" not in sys.modules):
        return []
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise UsageError(
            "telemetry=True needs opentelemetry-api: pip install 'durable-engine[telemetry]', and an SDK of "
            f"OpenTelemetry beside it ({error})"
        ) from error
    provider = trace.get_tracer_provider()
    if wanted is None and isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return []  # nobody has installed one
    from durable.telemetry.spans import Traces

    return [] if any(isinstance(one, Traces) for one in given) else [Traces(provider)]


def carry_on(headers: dict[str, str]) -> None:
    """Add the caller's trace, if there is one, to the headers of a request, so that the trace goes on there."""
    if "opentelemetry.trace" in sys.modules:
        from durable.telemetry.carried import above, carry

        span = above(headers)
        if span is not None:
            carry(span, headers)


def __getattr__(name: str) -> object:
    if name == "Traces":
        from durable.telemetry.spans import Traces

        return Traces
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
