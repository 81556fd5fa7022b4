"""A whole benchmark: install, measure, write down."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from invoke.exceptions import Exit

from tests.servers import programs

from . import measure, report
from .peers import OURS, PEERS, install

HERE = Path(__file__).resolve().parent


def main(*, quick: bool, only: str, server: str) -> None:
    cases = measure.QUICK if quick else measure.CASES
    if only:
        cases = [case for case in measure.CASES if case.name == only]
        if not cases:
            names = ", ".join(case.name for case in measure.CASES)
            raise Exit(f"No case {only}. There are: {names}", code=2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped then, too
    results = run(cases, server, others=not quick)
    if not quick and not only:
        report.write(results, HERE)
    _say(report.markdown(results))


def run(cases: Sequence[measure.Case], server: str, *, others: bool) -> dict[str, Any]:
    """Return what results.json holds."""
    peers, versions = [], _our_versions()
    absent: dict[str, str] = {}
    for peer in PEERS:
        reason = ""
        if peer.packages and others:
            _say(f"installing {peer.name}")
            found, reason = install(peer)
            (absent if reason else versions)[peer.name] = reason or found
        if not reason and (others or not peer.packages):
            peers.append(peer)
    made: dict[str, Any] = {}
    with measure.session(server, peers, _say) as bench:
        for case in cases:
            samples = bench.measure(case)
            made[case.name] = {
                "title": case.title,
                "samples": {name: [asdict(s) for s in them] for name, them in samples.items()},
            }
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": _machine(),
        "server": _output(str(programs(server) / "postgres"), "--version"),
        "versions": versions,
        "absent": absent,
        "notes": {peer.name: peer.note for peer in peers},
        "cases": made,
    }


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _machine() -> dict[str, str]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kernel = re.match(r"[\d.]*\d", platform.release())
    return {
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 1e9:.0f} GB",
        "architecture": platform.machine(),
        "kernel": f"{platform.system()} {kernel[0] if kernel else ''}".strip(),
    }


def _our_versions() -> dict[str, str]:
    found = {OURS: version("invoke-pg-migrations"), "Python": platform.python_version()}
    return found | {name: version(name) for name in ("invoke", "psycopg")}


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
