"""Metrics as data: what each is called, its unit, and its points. Both ways out read these, so they say the same."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import msgspec

#: The values of a point's labels, in the order of the family's.
Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]


class Family(msgspec.Struct, frozen=True, eq=False):
    """One metric, by the name that OpenTelemetry has for it. Each is itself: they are looked up for each value."""

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
        """Its name there: the unit is part of it, and a counter ends in `_total`."""
        unit = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}.get(self.unit, "")
        return self.name.replace(".", "_") + unit + ("_total" if self.kind == "counter" else "")


class Distribution(msgspec.Struct):
    """A point of a histogram."""

    #: How many values were in each bucket.
    counts: list[int]
    sum: float = 0.0

    def add(self, value: float, bounds: Sequence[float]) -> None:
        """One more value."""
        self.counts[bisect_left(bounds, value)] += 1
        self.sum += value


class Measured(msgspec.Struct, frozen=True):
    """A family and its points at one moment."""

    family: Family
    points: dict[Labels, float | Distribution]
