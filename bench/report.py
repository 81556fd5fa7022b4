"""Results -> results.json, results.md and results.svg."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from .case import AFAR, LOCAL, Case, Column
from .cases import CASES
from .peers import OURS, REFERENCES
from .results import Results

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


def markdown(raw: dict[str, Any], known: Sequence[Case] = CASES) -> str:
    """Return the page of what was measured, the cases in the order of `known`."""
    cases, results = [case for case in known if case.name in raw], Results(raw)
    lines = ["# Benchmark", "", _INTRO, "", *_circumstances(raw, cases), ""]
    lines += _targets(results, cases)

    def seconds(case: str, name: str) -> str:
        ratio = None if name == OURS else results.ratio(case, name, OURS)
        return _spread(results, case, name) + (f" ×{_short(ratio)}" if ratio else "")

    def memory(case: str, name: str) -> str:
        peaks = results.values(case, name, "peak_mb")
        return f"{max(peaks):.0f}" if peaks else ""

    for group in (LOCAL, AFAR):
        lines += _by_name(results, group, [c for c in cases if c.group == group], seconds)
    lines += _by_name(results, "Peak memory, MB", [c for c in cases if c.memory], memory)
    for case in cases:
        lines += [] if case.group else _own(results, case)
    return "\n".join([*lines, *_notes(results, cases)]) + "\n"


def write(raw: dict[str, Any], folder: Path, known: Sequence[Case] = CASES) -> None:
    kept = {case.name: raw[case.name] for case in known if case.name in raw}
    text = json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    for name, content in (("json", text), ("md", markdown(raw, known)), ("svg", svg(raw, known))):
        (folder / f"results.{name}").write_text(content, encoding="utf-8")


def _circumstances(raw: dict[str, Any], cases: Sequence[Case]) -> list[str]:
    """Return when and where, a line for each difference, and the versions, the latest ones."""
    groups: dict[str, list[str]] = {}
    versions: dict[str, str] = {}
    for case in cases:
        told = raw[case.name]
        groups.setdefault(f"{told['date']}; {_machine(told)}; {told['server']}", []).append(
            case.name
        )
    for case in sorted(cases, key=lambda case: str(raw[case.name]["date"])):
        versions |= raw[case.name]["versions"]
    alone = len(groups) == 1
    lines = [f"- {what}" + ("" if alone else f": {', '.join(groups[what])}") for what in groups]
    return [*lines, "- " + ", ".join(f"{name} {version}" for name, version in versions.items())]


def _machine(told: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in told["machine"].items())


def _targets(results: Results, cases: Sequence[Case]) -> list[str]:
    rows, profiles = [], []
    for case in cases:
        found = case.targets(results)
        for target in found:
            shown = target.shown or _short(target.figure)
            rows.append((target.case, target.text, shown, "yes" if target.met else "**no**"))
        if case.profile and not all(target.met for target in found):
            profiles.append(f"- {case.name}: {case.profile}")
    if not rows:
        return []
    lines = ["## Targets", "", *_table(["case", "target", "measured", "met"], rows), ""]
    return lines + (
        ["Where the time goes, of what is not met:", "", *profiles, ""] if profiles else []
    )


def _by_name(
    results: Results, title: str, cases: Sequence[Case], cell: Callable[[str, str], str]
) -> list[str]:
    """Return a table with a column a case."""
    if not cases:
        return []
    names = list(dict.fromkeys(n for case in cases for n in _rows(results, case)))
    names.sort(key=lambda name: name not in REFERENCES)
    head = ["", *(case.title for case in cases)]
    rows = [[_bold(n), *(cell(case.name, n) for case in cases)] for n in names]
    return [f"## {title}", "", *_table(head, rows), ""]


def _own(results: Results, case: Case) -> list[str]:
    """Return the table of one case, with its columns."""
    head = ["", *(column.heading for column in case.columns.values())]
    rows = [
        [_bold(n), *(_spread(results, case.name, n, *each) for each in case.columns.items())]
        for n in _rows(results, case)
    ]
    about = [case.about, ""] if case.about else []
    title = case.title[0].upper() + case.title[1:]
    return [f"## {title}", "", *about, *_table(head, rows), ""]


def _rows(results: Results, case: Case) -> list[str]:
    """Return the rows of a case: its programs in their order, then what it has beside them."""
    names = results.names(case.name)
    programs = [program.name for program in case.programs if program.name in names]
    return list(dict.fromkeys([*programs, *names]))


def _spread(
    results: Results, case: str, name: str, what: str = "seconds", column: Column | None = None
) -> str:
    """Return the median of a row's figures, and the least and most."""
    values = results.values(case, name, what)
    if not values:
        return "fails" if name in results.names(case) and results.error(case, name) else ""
    shown = [_short(v) if column is None else f"{v:,.{column.digits}f}" for v in _three(values)]
    if len(values) == 1 or (column and column.most):
        return shown[-1]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def _notes(results: Results, cases: Sequence[Case]) -> list[str]:
    noted = {p.name: p.note for case in cases for p in case.programs if p.note}
    taking_part = {name for case in cases for name in results.names(case.name)}
    absent = {n: why for case in cases for n, why in results.cases[case.name]["absent"].items()}
    lines = [f"- {name}: {note}." for name, note in noted.items() if name in taking_part]
    lines += [f"- {name} is absent: {reason}" for name, reason in absent.items()]
    for case in cases:
        failed = [(name, results.error(case.name, name)) for name in results.names(case.name)]
        lines += [f"- {name} fails, {case.title}: `{error}`" for name, error in failed if error]
    return ["## Notes", "", *lines] if lines else []


def _bold(name: str) -> str:
    return f"**{name}**" if name.startswith("invoke ") else name


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]]


def _short(number: float) -> str:
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def svg(raw: dict[str, Any], known: Sequence[Case] = CASES) -> str:
    """Return bars, a panel a case: the shorter the better."""
    results = Results(raw)
    cases = [case for case in known if case.panel and results.finished(case.name)]
    height = max((len(results.finished(case.name)) for case in cases), default=0) * 19 + 44
    total = (len(cases) + 1) // 2 * height + 24
    told = max((raw[case.name] for case in cases), key=lambda told: str(told["date"]))
    foot = escape(f"Median seconds, {told['date']}; {told['server']}; {_machine(told)}.")
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" width="850" '
        f'viewBox="0 0 850 {total}"><title>Migration tools side by side</title>',
        f"<style>{_STYLE}</style>",
    ]
    for at, case in enumerate(cases):
        parts += _panel(results, case, at % 2 * 420 + 10, at // 2 * height + 20)
    parts.append(f'<text class="small" x="10" y="{total - 10}">{foot}</text>\n</svg>\n')
    return "\n".join(parts)


def _panel(results: Results, case: Case, x: int, y: int) -> list[str]:
    names = results.finished(case.name)
    most = results.middle(case.name, names[-1])
    title = escape(case.title)
    parts = [f'<text class="title" x="{x}" y="{y}">{title}</text>']
    for row, name in enumerate(names):
        seconds, top = results.middle(case.name, name), y + 10 + row * 19
        kind = "ours" if name == OURS else "reference" if name in REFERENCES else "bar"
        bold, width = ' class="us"' if name == OURS else "", max(seconds / most * 200, 1)
        parts.append(
            f'<text{bold} x="{x + 152}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{kind}" x="{x + 158}" y="{top + 1}" width="{width:.1f}" height="14" '
            f'rx="2"/><text class="small" x="{x + 162 + width:.1f}" y="{top + 12}">'
            f"{_short(seconds)}</text>"
        )
    return parts
