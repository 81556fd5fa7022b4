"""Run the suite on every PostgreSQL and every Python that can be had.

    python -m tests.versions            everything; writes the table into README.md
    python -m tests.versions --quick    a smoke test of each; only prints

The servers are the embedded wheel's, Debian's, the wheel pgserver's, and what npm installs, all on
this Python; the other Pythons have the embedded one. What is not here is said to be absent. Exit
code 1 if anything failed. It is a matter of an hour.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers import programs

ROOT = Path(__file__).resolve().parents[1]
SERVERS = ("embedded", "17", "16", "15", "14", "13")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SMOKE = ["tests/scenarios/test_main_job.py"]
README = ROOT / "README.md"
BEGIN, END = "<!-- support -->", "<!-- /support -->"

Row = tuple[str, str, str]  # PostgreSQL, Python, what it came to


def python(version: str) -> Path | None:
    """Return the program of that Python: pyenv's latest, or what PATH has."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(
        pyenv.glob(f"{version}.*/bin/python"), key=lambda p: int(p.parts[-3].split(".")[2])
    )
    named = shutil.which(f"python{version}")
    chosen = found[-1] if found else Path(named) if named else None
    return chosen if chosen and said(chosen, "-c", "import ensurepip; print(1)") == "1" else None


def said(*command: str | Path) -> str:
    """Return what a program says, and nothing if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def server_version(server: str) -> str:
    """Return the version of a server, or nothing if it is not there."""
    try:
        return said(programs(server) / "postgres", "--version").split()[2]
    except FileNotFoundError:
        return ""


def tested(interpreter: Path, server: str, what: list[str]) -> str:
    """Run pytest, and return the counts of its last line."""
    options = ["-m", "pytest", "-q", "--all", "-p", "no:cacheprovider", "--postgres", server]
    done = subprocess.run(
        [interpreter, *options, *what], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    counts = re.findall(r"\d+ (?:passed|failed|errors?)\b", done.stdout[-200:])
    if done.returncode:
        sys.stderr.write(done.stdout)
    return ", ".join(counts) if counts else f"pytest ended with {done.returncode}"


def on_servers(what: list[str]) -> list[Row]:
    """Return what the tests come to on each server, on this Python."""
    ours = ".".join(map(str, sys.version_info[:3]))
    rows = []
    for server in SERVERS:
        version = server_version(server)
        result = tested(Path(sys.executable), server, what) if version else "not here"
        rows.append((version or server, ours, result))
    return rows


def on_pythons(what: list[str]) -> list[Row]:
    """Return what the tests come to on each other Python, on the embedded server."""
    server = server_version("embedded")
    rows = []
    for wanted in PYTHONS:
        found = python(wanted)
        if wanted == ".".join(map(str, sys.version_info[:2])):
            continue
        if found is None:
            rows.append((server, wanted, "not here"))
            continue
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([found, "-m", "venv", folder], check=True)
            inside = Path(folder, "bin", "python")
            install = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([inside, *install, "-e", f"{ROOT}[dev]"], check=True)
            version = said(inside, "-c", "import platform; print(platform.python_version())")
            rows.append((server, version, tested(inside, "embedded", what)))
    return rows


def table(rows: list[Row]) -> str:
    head = ("PostgreSQL", "Python", "tests")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(text: str) -> None:
    """Put the table between the markers of the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests on all versions there are.")
    parser.add_argument("--quick", action="store_true", help="a smoke test of each; writes nothing")
    quick = parser.parse_args().quick
    what = SMOKE if quick else []
    rows = on_servers(what) + on_pythons(what)
    sys.stdout.write(table(rows))
    if not quick:
        write(table(rows))
    return int(any(re.search("failed|error|ended", result) for *_, result in rows))


if __name__ == "__main__":
    sys.exit(main())
