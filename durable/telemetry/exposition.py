"""Metrics in Prometheus' text format, version 0.0.4.

It is written here and not with `prometheus_client`, whose registry belongs to the whole process: an application that
uses it would find our metrics among its own, and any other would need it for a page of text. The tests read the page
with that library.
"""

from collections.abc import Iterable, Iterator

from durable.telemetry.families import Distribution, Labels, Measured

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(measured: Iterable[Measured]) -> str:
    """The page for these metrics."""
    return "".join(line + "\n" for one in measured for line in _lines(one))


def _lines(measured: Measured) -> Iterator[str]:
    family, name = measured.family, measured.family.prometheus
    yield f"# HELP {name} {_escaped(family.help)}"
    yield f"# TYPE {name} {family.kind}"
    for labels, value in sorted(measured.points.items()):
        if not isinstance(value, Distribution):
            yield f"{name}{_labels(family.labels, labels)} {_number(value)}"
            continue
        number = 0
        for bound, count in zip((*family.bounds, float("inf")), value.counts, strict=True):
            number += count
            le = "+Inf" if bound == float("inf") else _number(bound)
            yield f"{name}_bucket{_labels((*family.labels, 'le'), (*labels, le))} {number}"
        yield f"{name}_sum{_labels(family.labels, labels)} {_number(value.sum)}"
        yield f"{name}_count{_labels(family.labels, labels)} {number}"


def _labels(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escaped(value, quoted=True)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quoted else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
