"""Run the suite on every PostgreSQL and every Python that can be had.

    python -m tests.versions             everything; writes the table into README.md
    python -m tests.versions --only 14   one server or Python (or several): its rows are replaced
    python -m tests.versions --quick     a smoke test of each; only prints

The servers are the embedded wheel's, Debian's, and what npm installs, all on this Python; the other
Pythons have the embedded one. All tests run on that; those of `tests/scenarios`, with what takes
long, on the other servers; and on the other Pythons all but what takes long. What is not here is
said to be absent. Exit code 1 if anything failed. It is a matter of three quarters of an hour.
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
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--postgres", server]
    done = subprocess.run(
        [interpreter, *options, *what], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    counts = re.findall(r"\d+ (?:passed|failed|errors?)\b", done.stdout[-200:])
    if done.returncode:
        sys.stderr.write(done.stdout)
    return ", ".join(counts) if counts else f"pytest ended with {done.returncode}"


def on_server(server: str, what: list[str]) -> Row:
    """Return what the tests come to on a server, on this Python."""
    version = server_version(server)
    what = what or (["--all"] if server == "embedded" else ["--all", "tests/scenarios"])
    result = tested(Path(sys.executable), server, what) if version else "not here"
    return version or server, ".".join(map(str, sys.version_info[:3])), result


def on_python(wanted: str, what: list[str]) -> Row:
    """Return what the tests come to on another Python, on the embedded server."""
    server, found = server_version("embedded"), python(wanted)
    if found is None:
        return server, wanted, "not here"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([found, "-m", "venv", folder], check=True)
        inside = Path(folder, "bin", "python")
        install = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([inside, *install, "-e", f"{ROOT}[dev]"], check=True)
        version = said(inside, "-c", "import platform; print(platform.python_version())")
        return server, version, tested(inside, "embedded", what)


def written() -> list[Row]:
    """Return the rows of the README."""
    text = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [tuple(line.strip("| ").split(" | ")) for line in text.splitlines()[3:]]
    return [(server, python, result) for server, python, result in rows]


def place(row: Row) -> tuple[bool, int, int]:
    """Return where a row belongs: the servers first, the newest first, and then the Pythons."""
    server, python = int(row[0].split(".")[0]), int(row[1].split(".")[1])
    return python != sys.version_info[1], -server, python


def replaced(rows: list[Row], new: list[Row]) -> list[Row]:
    """Return the rows, with new ones in the place of those of the same versions."""
    return sorted({place(row): row for row in [*rows, *new]}.values(), key=place)


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
    parser.add_argument("--only", nargs="+", help="one server or Python, or several")
    options = parser.parse_args()
    what = SMOKE if options.quick else []
    others = [p for p in PYTHONS if p != ".".join(map(str, sys.version_info[:2]))]
    wanted = options.only or [*SERVERS, *others]
    rows = [on_server(server, what) for server in SERVERS if server in wanted]
    rows += [on_python(python, what) for python in others if python in wanted]
    sys.stdout.write(table(rows))
    if not options.quick:
        write(table(replaced(written(), rows) if options.only else rows))
    return int(any(re.search("failed|error|ended", result) for *_, result in rows))


if __name__ == "__main__":
    sys.exit(main())
