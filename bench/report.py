"""Results -> results.json, results.md and results.svg."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from .peers import FLOOR, ONE_STRING, OURS, PSQL, REFERENCES

_BEHIND = ("Alembic", "node-pg-migrate", "graphile-migrate", "knex", "sqitch")
_LOCAL = ["apply-1", "apply-10", "apply-100", "apply-1000", "nothing-to-do", "one-more"]
_OTHER = ["apply-100-10ms", "apply-100-30ms", "copy-100mb", "insert-100mb", "stall"]
_MEMORY = ["nothing-to-do", "apply-100", "apply-1000", "copy-100mb", "insert-100mb"]
_PANELS = ["apply-1000", "apply-100-10ms", "nothing-to-do", "stall"]
_INTRO = """\
Seconds: the median, and the least and most of the rounds. A ratio (×) is a program's time to ours
in the same round, the median over the rounds. Every program gets the same files, on new databases
of one new server with fsync on, in turn. Programs that took long were measured fewer times. In the
ALTER TABLE case, somebody reads the table for 5 s in one transaction, and an application goes on
using it."""
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px } .us { font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.bar { fill: #afb8c1 } .reference { fill: #d8dee4 } .ours { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 }
  .bar { fill: #57606a } .reference { fill: #3d444d } .ours { fill: #3fb950 }
}"""


class Results:
    """What results.json holds, as questions."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.cases: dict[str, Any] = raw["cases"]
        self.machine = ", ".join(f"{k} {v}" for k, v in raw["machine"].items())

    def names(self, case: str) -> list[str]:
        return list(self.cases[case]["samples"]) if case in self.cases else []

    def error(self, case: str, name: str) -> str:
        return next((s["error"] for s in self.cases[case]["samples"][name] if s["error"]), "")

    def values(self, case: str, name: str, what: str = "seconds") -> list[float]:
        """Return the samples of a program, none if it failed."""
        if name not in self.names(case) or self.error(case, name):
            return []
        return [sample[what] for sample in self.cases[case]["samples"][name]]

    def middle(self, case: str, name: str) -> float:
        return median(self.values(case, name))

    def ratio(self, case: str, name: str, to: str) -> float | None:
        pairs = list(zip(self.values(case, name), self.values(case, to), strict=False))
        return median(a / b for a, b in pairs) if pairs else None

    def finished(self, case: str) -> list[str]:
        """Return who did it, the fastest first."""
        names = [name for name in self.names(case) if self.values(case, name)]
        return sorted(names, key=lambda name: self.middle(case, name))

    def others(self, case: str) -> list[str]:
        return [name for name in self.finished(case) if name not in (OURS, *REFERENCES)]


def targets(results: Results) -> list[tuple[str, str, str, str]]:
    """Return (case, target, figure, met) of what this project promises."""
    rows = []

    def add(case: str, target: str, figure: float, limit: float, shown: str = "") -> None:
        met = "yes" if figure <= limit else "**no**"
        rows.append((case, target, shown or f"{figure:.2f}", met))

    def against(case: str, name: str, limit: float, target: str) -> None:
        ratio = results.ratio(case, OURS, name)
        if ratio is not None:
            add(case, target.format(name), ratio, limit)

    against("apply-1000", PSQL, 1.0, "at most 1.0 of {}, a commit a file")
    for case, limit in (("apply-1000", 1.0), ("apply-100-10ms", 0.3), ("apply-100-30ms", 0.12)):
        # The fastest in the same rounds: medians of different rounds drift with the machine.
        ratios = [(results.ratio(case, OURS, n) or 0, n) for n in results.others(case)]
        for _, name in sorted(ratios)[-1:]:
            against(case, name, limit, f"at most {limit} of the fastest tool ({{}})")
    against("apply-100-10ms", ONE_STRING, 3, "at most 3 times {}")
    against("nothing-to-do", FLOOR, 1.15, "at most 1.15 of the {}")
    for name in _BEHIND:
        against("nothing-to-do", name, 1.0, "ahead of {}")
    if ours := results.values("copy-100mb", OURS, "peak_mb"):
        add("copy-100mb", "at most 100 MB of memory", max(ours), 100, f"{max(ours):.0f} MB")
        whole = results.others("insert-100mb")
        peaks = sorted((results.values("insert-100mb", n, "peak_mb")[0], n) for n in whole)
        for peak, name in peaks[:1]:
            target = f"a quarter of the best that reads files whole ({name}, with INSERTs)"
            share = max(ours) / peak
            add("copy-100mb", target, share, 0.25, f"{share:.2f} of {peak:.0f} MB")
    if ours := results.values("stall", OURS):
        others = [f"{results.middle('stall', n):.2f} s ({n})" for n in results.others("stall")[:1]]
        shown = "; the least of the others ".join([f"{max(ours):.2f} s", *others])
        add("stall", "under 1 s", max(ours), 1.0, shown)
    return rows


def markdown(raw: dict[str, Any]) -> str:
    results = Results(raw)
    versions = ", ".join(f"{name} {version}" for name, version in raw["versions"].items())
    lines = ["# Benchmark", "", _INTRO, "", f"- {raw['date']}; {results.machine}"]
    lines += [f"- {raw['server']}; {versions}", ""]
    if rows := targets(results):
        lines += ["## Targets", "", *_table(["case", "target", "measured", "met"], rows), ""]

    def seconds(case: str, name: str) -> str:
        values = results.values(case, name)
        if not values:
            return "fails" if name in results.names(case) else ""
        ratio = None if name == OURS else results.ratio(case, name, OURS)
        spread = f" ({_short(min(values))}–{_short(max(values))})" if len(values) > 1 else ""
        return _short(median(values)) + spread + (f" ×{_short(ratio)}" if ratio else "")

    def memory(case: str, name: str) -> str:
        peaks = results.values(case, name, "peak_mb")
        return f"{max(peaks):.0f}" if peaks else ""

    lines += _by_name(results, "Local", _LOCAL, seconds)
    lines += _by_name(results, "Over a distance, large files, a busy table", _OTHER, seconds)
    lines += [*_by_name(results, "Peak memory, MB", _MEMORY, memory), "## Notes", ""]
    lines += [f"- {name}: {note}." for name, note in raw["notes"].items()]
    lines += [f"- {name} is absent: {reason}" for name, reason in raw["absent"].items()]
    for case, about in results.cases.items():
        failed = [(name, results.error(case, name)) for name in results.names(case)]
        lines += [f"- {name} fails, {about['title']}: `{e}`" for name, e in failed if e]
    return "\n".join(lines) + "\n"


def write(raw: dict[str, Any], folder: Path) -> None:
    text = json.dumps(raw, indent=1, ensure_ascii=False) + "\n"
    for name, content in (("json", text), ("md", markdown(raw)), ("svg", svg(raw))):
        (folder / f"results.{name}").write_text(content, encoding="utf-8")


def _by_name(
    results: Results, title: str, cases: list[str], cell: Callable[[str, str], str]
) -> list[str]:
    cases = [case for case in cases if case in results.cases]
    if not cases:
        return []
    names = [n for n in results.raw["notes"] if any(n in results.names(c) for c in cases)]
    head = ["", *(results.cases[case]["title"] for case in cases)]
    rows = [[f"**{n}**" if n == OURS else n, *(cell(c, n) for c in cases)] for n in names]
    return [f"## {title}", "", *_table(head, rows), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]]


def _short(number: float) -> str:
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def svg(raw: dict[str, Any]) -> str:
    """Return bars, a panel a case: the shorter the better."""
    results = Results(raw)
    cases = [case for case in _PANELS if results.finished(case)]
    height = max((len(results.finished(case)) for case in cases), default=0) * 19 + 44
    total = (len(cases) + 1) // 2 * height + 24
    foot = escape(f"Median seconds, {raw['date']}; {raw['server']}; {results.machine}.")
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" width="850" '
        f'viewBox="0 0 850 {total}"><title>Migration tools side by side</title>',
        f"<style>{_STYLE}</style>",
    ]
    for at, case in enumerate(cases):
        parts += _panel(results, case, at % 2 * 420 + 10, at // 2 * height + 20)
    parts.append(f'<text class="small" x="10" y="{total - 10}">{foot}</text>\n</svg>\n')
    return "\n".join(parts)


def _panel(results: Results, case: str, x: int, y: int) -> list[str]:
    names = results.finished(case)
    most = results.middle(case, names[-1])
    title = escape(results.cases[case]["title"])
    parts = [f'<text class="title" x="{x}" y="{y}">{title}</text>']
    for row, name in enumerate(names):
        seconds, top = results.middle(case, name), y + 10 + row * 19
        kind = "ours" if name == OURS else "reference" if name in REFERENCES else "bar"
        bold, width = ' class="us"' if name == OURS else "", max(seconds / most * 200, 1)
        parts.append(
            f'<text{bold} x="{x + 152}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{kind}" x="{x + 158}" y="{top + 1}" width="{width:.1f}" height="14" '
            f'rx="2"/><text class="small" x="{x + 162 + width:.1f}" y="{top + 12}">'
            f"{_short(seconds)}</text>"
        )
    return parts
