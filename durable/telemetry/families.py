"""Metrics as data: names, units and points. Prometheus and OpenTelemetry both read these, so they show the same."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import msgspec

#: The values of a point's labels, in the order of the family's.
Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]


class Family(msgspec.Struct, frozen=True, eq=False):
    """One metric, under its OpenTelemetry name. Compared by identity, because one is looked up for each value."""

    name: str
    kind: Kind
    help: str
    #: As UCUM writes it: `s`, `By`, or what is counted, as `{step}`.
    unit: str
    labels: Labels = ()
    #: Of a histogram: the upper bounds of all buckets but the last one.
    bounds: Sequence[float] = ()

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus, which includes the unit and, for a counter, ends in `_total`."""
        unit = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}.get(self.unit, "")
        return self.name.replace(".", "_") + unit + ("_total" if self.kind == "counter" else "")


class Distribution(msgspec.Struct):
    """One point of a histogram."""

    #: How many values were in each bucket.
    counts: list[int]
    sum: float = 0.0

    def add(self, value: float, bounds: Sequence[float]) -> None:
        """Count one more value."""
        self.counts[bisect_left(bounds, value)] += 1
        self.sum += value


class Measured(msgspec.Struct, frozen=True):
    """A family and its points at one moment."""

    family: Family
    points: dict[Labels, float | Distribution]
