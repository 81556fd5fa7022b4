"""A whole benchmark, or a part of one: install, measure, write down."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from invoke.exceptions import Exit

from tests.servers import programs

from . import report
from .case import Case, Program
from .cases import CASES, files
from .peers import FLOOR, OURS, install
from .session import Bench, session

HERE = Path(__file__).resolve().parent
_QUICK = [
    files.case("apply-10", "apply 10 files", files.Work("apply", 10, 2)),
    files.case(
        "nothing-to-do",
        "nothing to do, 10 files executed",
        files.Work("again", 10, 2),
        references=(FLOOR,),
    ),
]


def main(*, quick: bool, only: str, write: bool, server: str) -> None:
    cases = _QUICK if quick else _chosen(only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped then, too
    # A job in the background ignores it, and so would pgbench, which is ended by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    measured = run(cases, server, others=not quick)
    if write or not (quick or only):
        report.write(_written() | measured, HERE)
    _say(report.markdown(measured))


def render() -> None:
    report.write(_written(), HERE)


def run(cases: Sequence[Case], server: str, *, others: bool) -> dict[str, Any]:
    """Return what results.json holds of these cases; `others`: beside what has to be installed."""
    circumstances = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": _machine(),
        "server": _output(str(programs(server) / "postgres"), "--version"),
    }
    measured: dict[str, Any] = {}
    with session(server, _say) as bench:
        for case in cases:
            measured[case.name] = circumstances | _measured(case, bench, others=others)
    return measured


def _measured(case: Case, bench: Bench, *, others: bool) -> dict[str, Any]:
    present: list[Program] = []
    versions, absent = _our_versions(), {}
    for program in case.programs:
        if program.packages and not others:
            continue
        if program.packages:
            found, reason = install(program)
            if reason:
                absent[program.name] = reason
                continue
            versions[program.name] = found
        present.append(program)
    samples = case.measure(bench, present)
    told = {
        row: [{**s.figures, **({"error": s.error} if s.error else {})} for s in them]
        for row, them in samples.items()
    }
    return {"versions": versions, "absent": absent, "samples": told}


def _chosen(only: str) -> list[Case]:
    known = {case.name: case for case in CASES}
    names = [name.strip() for name in only.split(",")] if only else list(known)
    for name in names:
        if name not in known:
            raise Exit(f"No case {name}. There are: {', '.join(known)}", code=2)
    return [known[name] for name in names]


def _written() -> dict[str, Any]:
    written: dict[str, Any] = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    return written


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
