"""One table: every number beside its floor or its target."""

import json
from typing import Literal

import msgspec


class Result(msgspec.Struct, frozen=True):
    """One measured row."""

    question: str
    value: float
    unit: str
    #: What the same rows cost bare, in the same unit and measured in the same run.
    floor: float | None = None
    #: How `value` (or, where there is a floor, `value / floor`) is judged.
    target: float | None = None
    better: Literal["higher", "lower"] = "lower"

    @property
    def ratio(self) -> float | None:
        """Against the floor."""
        return self.value / self.floor if self.floor else None

    @property
    def reached(self) -> bool | None:
        """Whether the target holds; None where there is none."""
        if self.target is None:
            return None
        judged = self.ratio if self.ratio is not None else self.value
        return judged <= self.target if self.better == "lower" else judged >= self.target


def number(value: float) -> str:
    """Three significant digits, thousands set apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def line(result: Result) -> str:
    """One row of the table."""
    floor = "" if result.floor is None else number(result.floor)
    ratio = "" if result.ratio is None else f"{result.ratio:.2f} x"
    target = ""
    if result.target is not None:
        sign = "<=" if result.better == "lower" else ">="
        target = f"{sign} {result.target:g}{' x' if result.floor else ' ' + result.unit}"
    verdict = {None: "", True: "ok", False: "MISSED"}[result.reached]
    measured = f"{number(result.value)} {result.unit}"
    return f"{result.question:<58} {measured:>20} {floor:>10} {ratio:>8} {target:>14} {verdict}"


HEADER = f"{'question':<58} {'measured':>20} {'floor':>10} {'ratio':>8} {'target':>14}"


def as_json(results: list[Result]) -> str:
    """The same for a machine."""
    return json.dumps(
        [{**msgspec.to_builtins(one), "ratio": one.ratio, "reached": one.reached} for one in results], indent=2
    )
