"""The benchmark measures and reports; with two files, and without the other tools."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import report, run
from bench.generate import files
from bench.measure import Case
from bench.peers import FLOOR, OURS, PEERS, PSQL


def test_a_small_benchmark(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    cases = [
        Case("apply-1000", "apply", "apply", 2, 1),
        Case("nothing-to-do", "nothing to do", "again", 2, 1, (FLOOR,)),
    ]
    raw = run.run(cases, pytestconfig.getoption("--postgres"), others=False)
    report.write(raw, tmp_path)

    applied = json.loads((tmp_path / "results.json").read_text())["cases"]["apply-1000"]
    assert set(applied["samples"]) == {PSQL, OURS}
    assert all(not s["error"] for samples in applied["samples"].values() for s in samples)
    assert f"**{OURS}**" in (tmp_path / "results.md").read_text()
    ElementTree.parse(tmp_path / "results.svg")


def test_every_tool_has_a_layout(tmp_path: Path) -> None:
    for peer in PEERS:
        folder = tmp_path / peer.name
        peer.lay(folder, files(2))
        before = len(list(folder.rglob("*")))
        peer.lay(folder, files(3))
        assert len(list(folder.rglob("*"))) > before or peer.name == FLOOR
