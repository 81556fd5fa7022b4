"""The benchmark measures and reports; with two files, and without the other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import report, run
from bench.case import Case, Column, Program, Sample, Samples, Target
from bench.cases import CASES, files
from bench.generate import files as some
from bench.peers import FLOOR, OURS, PEERS, PSQL
from bench.results import Results
from bench.session import Bench


def _own(bench: Bench, _: Sequence[Program]) -> Samples:
    rows = {"even": lambda turn: Sample({"tables": 7 + turn}), "odd": lambda _: Sample({}, "no")}
    assert bench.count(bench.cluster.create_database(), "SELECT 1") == 1
    return bench.turns("own", 2, rows)


def _own_target(results: Results) -> Sequence[Target]:
    return results.at_most("own", "even", 7, "seven tables", "tables")


def test_a_small_benchmark(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    apply = files.case("apply-1000", "apply", files.Work("apply", 2, 1), panel=True)
    again = files.case("nothing-to-do", "nothing", files.Work("again", 2, 1), references=(FLOOR,))
    programs = [Program("even", "in pairs")]
    columns = {"tables": Column("tables")}
    own = Case("own", "one with a table of its own", _own, programs, columns, _own_target)
    own = Case(**{**vars(own), "profile": "nowhere"})
    cases = [apply, again, own]
    before = run.run([again], pytestconfig.getoption("--postgres"), others=False)
    before["nothing-to-do"]["date"] = "2020-01-01"
    measured = run.run([apply, own], pytestconfig.getoption("--postgres"), others=False)
    report.write(before | measured, tmp_path, cases)

    written = json.loads((tmp_path / "results.json").read_text())
    assert set(written["apply-1000"]["samples"]) == {PSQL, OURS}
    assert not any("error" in s for them in written["apply-1000"]["samples"].values() for s in them)
    page = (tmp_path / "results.md").read_text()
    for shown in (
        f"**{OURS}**",
        "; postgres (PostgreSQL)",
        "## One with a table of its own",
        "| even | 7.50 (7.00–8.00) |",
        "| odd | fails |",
        "| own | seven tables | 7.50 | **no** |",
        "- own: nowhere",
        "- even: in pairs.",
    ):
        assert shown in page
    assert "- 2020-01-01; " in page and page.count(": nothing-to-do\n") == 1
    ElementTree.parse(tmp_path / "results.svg")


def test_what_is_written_is_what_was_measured(tmp_path: Path) -> None:
    report.write(json.loads((run.HERE / "results.json").read_text()), tmp_path)
    for name in ("results.json", "results.md", "results.svg"):
        assert (tmp_path / name).read_text() == (run.HERE / name).read_text()
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_tool_has_a_layout(tmp_path: Path) -> None:
    for peer in PEERS:
        folder = tmp_path / peer.name
        peer.lay(folder, some(2))
        before = len(list(folder.rglob("*")))
        peer.lay(folder, some(3))
        assert len(list(folder.rglob("*"))) > before or peer.name == FLOOR
