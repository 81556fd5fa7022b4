"""What results.json holds, as questions."""

from __future__ import annotations

from statistics import median
from typing import Any

from .case import Target
from .peers import OURS, REFERENCES


class Results:
    def __init__(self, cases: dict[str, Any]) -> None:
        self.cases = cases

    def names(self, case: str) -> list[str]:
        return list(self.cases[case]["samples"]) if case in self.cases else []

    def error(self, case: str, name: str) -> str:
        return next((s["error"] for s in self.cases[case]["samples"][name] if "error" in s), "")

    def values(self, case: str, name: str, what: str = "seconds") -> list[float]:
        """Return the figures of a row, none if it failed."""
        if name not in self.names(case) or self.error(case, name):
            return []
        return [sample[what] for sample in self.cases[case]["samples"][name] if what in sample]

    def middle(self, case: str, name: str, what: str = "seconds") -> float:
        return median(self.values(case, name, what))

    def ratio(self, case: str, name: str, to: str, what: str = "seconds") -> float | None:
        """Return the median of the rounds' ratios: both were measured under the same load."""
        pairs = zip(self.values(case, name, what), self.values(case, to, what), strict=False)
        ratios = [a / b for a, b in pairs if b]
        return median(ratios) if ratios else None

    def finished(self, case: str) -> list[str]:
        """Return who did it, the fastest first."""
        names = [name for name in self.names(case) if self.values(case, name)]
        return sorted(names, key=lambda name: self.middle(case, name))

    def others(self, case: str) -> list[str]:
        return [name for name in self.finished(case) if name not in (OURS, *REFERENCES)]

    def at_most(self, case: str, row: str, limit: float, text: str, what: str) -> list[Target]:
        """Return a target for the median of a row, none if it was not measured."""
        if not self.values(case, row, what):
            return []
        return [Target(case, text, self.middle(case, row, what), limit)]

    def against(self, case: str, name: str, limit: float, text: str) -> list[Target]:
        """Return a target for the ratio of our seconds to those of another; `{}` is its name."""
        ratio = self.ratio(case, OURS, name)
        return [] if ratio is None else [Target(case, text.format(name), ratio, limit)]

    def against_fastest(self, case: str, limit: float) -> list[Target]:
        # The fastest in the same rounds: medians of different rounds drift with the machine.
        ratios = [(self.ratio(case, OURS, name) or 0, name) for name in self.others(case)]
        name = max(ratios, default=(0, ""))[1]
        return self.against(case, name, limit, f"at most {limit} of the fastest tool ({{}})")
