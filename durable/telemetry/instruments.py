"""The same metrics through OpenTelemetry's API, for any SDK that the host brings.

The SDK asks for counters and gauges when it exports, on its own thread. It wants the values of histograms one by one,
which takes it five times as long as we need to count them. So they wait for the export, too, while they are few.
"""

import sys
from array import array
from collections.abc import Callable, Iterable
from threading import Lock
from time import monotonic
from typing import Any
from weakref import WeakMethod, ref

from durable.release import package_version
from durable.telemetry.families import Distribution, Family, Labels, Measured
from durable.telemetry.metrics import ASKED, TOLD, Metrics


def provider() -> Any:
    """The meter provider that the process has installed, or None."""
    if "opentelemetry.metrics" not in sys.modules:
        return None
    from opentelemetry import metrics

    found = metrics.get_meter_provider()
    api = type(found).__module__.startswith("opentelemetry.metrics")  # which stands for one, or for none
    return None if api else found


#: For how long what was computed for one export is of that moment.
SAME_S = 1.0


#: How many values of histograms wait for the next export. The others are handed over at once.
WAIT_MAX = 10_000


class Instruments:
    """Exports the metrics of one engine, for as long as these exist."""

    def __init__(self, metrics: Metrics, provider: Any, database: str) -> None:
        from opentelemetry.metrics import Observation

        self._observation: Any = Observation
        self._metrics = ref(metrics)
        meter = provider.get_meter("durable", package_version(), attributes={"durable.database": database})
        self._record: dict[Family, Callable[[float, dict[str, str]], None]] = {}
        #: Values that wait, by where they belong, and how many more may.
        self._waiting: dict[Family, dict[Labels, array[float]]] = {}
        self._room = WAIT_MAX
        self._lock = Lock()
        self._attributes: dict[tuple[Family, Labels], dict[str, str]] = {}
        #: What was computed at once, until it is asked for, and how long that is of this moment.
        self._latest: dict[Family, Measured] = {}
        self._until = 0.0
        for family in (*TOLD, *ASKED):
            about = {"unit": family.unit, "description": family.help}
            if family.kind == "histogram":
                self._record[family] = _histogram(meter, family, about).record
            else:
                make = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
                make(family.name, callbacks=[_Callback(self, family)], **about)
        metrics.record = self.record

    def record(self, family: Family, value: float, labels: Labels) -> None:
        """Take one value of a histogram."""
        with self._lock:  # and not while values are handed over: nobody waits for the SDK
            if self._room:
                self._room -= 1
                waiting = self._waiting.setdefault(family, {})
                values = waiting.get(labels)
                if values is None:
                    values = waiting[labels] = array("d")
                values.append(value)
                return
        self._hand_over(family, value, labels)

    def _hand_over(self, family: Family, value: float, labels: Labels) -> None:
        attributes = self._attributes.get((family, labels))
        if attributes is None:
            attributes = self._attributes[family, labels] = dict(zip(family.labels, labels, strict=True))
        self._record[family](value, attributes)

    def observations(self, family: Family) -> Iterable[Any]:
        """The current points of a counter or gauge. An export asks for these before it reads the histograms."""
        with self._lock:
            waiting, self._waiting, self._room = self._waiting, {}, WAIT_MAX
        for of, points in waiting.items():
            for labels, values in points.items():
                for value in values:
                    self._hand_over(of, value, labels)
        return [
            self._observation(value, dict(zip(family.labels, labels, strict=True)))
            for labels, value in self._points(family).items()
            if not isinstance(value, Distribution)
        ]

    def _points(self, family: Family) -> dict[Labels, float | Distribution]:
        """Of all that is computed at once: each is told once, then they are computed anew."""
        if family not in self._latest or monotonic() > self._until:
            self._until = monotonic() + SAME_S
            metrics = self._metrics()
            self._latest = {} if metrics is None else {one.family: one for one in metrics.measured()}
        found = self._latest.pop(family, None)
        return {} if found is None else found.points


class _Callback:
    """What the SDK keeps: it does not keep an engine alive."""

    def __init__(self, instruments: Instruments, family: Family) -> None:
        self._observations = WeakMethod(instruments.observations)
        self._family = family

    def __call__(self, options: object) -> Iterable[Any]:
        observations = self._observations()
        return () if observations is None else observations(self._family)


def _histogram(meter: Any, family: Family, about: dict[str, str]) -> Any:
    try:
        return meter.create_histogram(family.name, explicit_bucket_boundaries_advisory=list(family.bounds), **about)
    except TypeError:  # an API from before 1.30 has no word for them: the SDK's own, or those of a view
        return meter.create_histogram(family.name, **about)
