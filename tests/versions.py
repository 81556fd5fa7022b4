"""Run the suite on every PostgreSQL that can be had, and a smoke test on every Python.

    python -m tests.versions            everything; writes the table into README.md
    python -m tests.versions --quick    the smoke test everywhere; only prints

The servers are the embedded wheel's, Debian's 15 and the wheel pgserver's 16; one that cannot be
had is said to be absent. Exit code 1 if anything failed.
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
SERVERS = ("embedded", "16", "15")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SMOKE = "tests/scenarios/test_main_job.py"
README = ROOT / "README.md"
HEADING = "## Supported versions"
BEGIN, END = "<!-- support -->", "<!-- /support -->"

Row = tuple[str, str, str, str]  # PostgreSQL, Python, tests, result


def python(version: str) -> Path | None:
    """Return the program of that Python: pyenv's latest, or what PATH has."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(
        pyenv.glob(f"{version}.*/bin/python"), key=lambda p: int(p.parts[-3].split(".")[2])
    )
    named = shutil.which(f"python{version}")
    chosen = found[-1] if found else Path(named) if named else None
    return chosen if chosen and said(chosen, "-c", "print(1)") == "1" else None


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


def tested(interpreter: Path, server: str, *what: str) -> str:
    """Run pytest, and return its last line's counts."""
    command: list[str | Path] = [
        interpreter,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--postgres",
        server,
    ]
    done = subprocess.run(
        [*command, *what], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    counts = re.findall(r"\d+ (?:passed|failed|errors?)\b", done.stdout.rsplit("\n", 2)[-2])
    if done.returncode:
        sys.stderr.write(done.stdout)
    return ", ".join(counts) if counts else f"pytest ended with {done.returncode}"


def on_servers(*, quick: bool) -> list[Row]:
    """Return what the suite comes to on each server, on this Python."""
    rows = []
    ours = ".".join(map(str, sys.version_info[:3]))
    for server in SERVERS:
        version = server_version(server)
        if version:
            result = tested(Path(sys.executable), server, *([SMOKE] if quick else []))
            rows.append((version, ours, "smoke" if quick else "all", result))
        else:
            rows.append((server, ours, "", "not here"))
    return rows


def on_pythons() -> list[Row]:
    """Return what the smoke test comes to on each other Python, on the embedded server."""
    rows = []
    for wanted in PYTHONS:
        found = python(wanted)
        if wanted == ".".join(map(str, sys.version_info[:2])):
            continue
        if found is None:
            rows.append((server_version("embedded"), wanted, "", "not here"))
            continue
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([found, "-m", "venv", folder], check=True)
            inside = Path(folder, "bin", "python")
            packages = ["-e", f"{ROOT}[embedded]", "pytest"]
            install: list[str | Path] = [
                inside,
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
            ]
            subprocess.run([*install, *packages], check=True)
            version = said(inside, "-c", "import platform; print(platform.python_version())")
            result = tested(inside, "embedded", SMOKE)
        rows.append((server_version("embedded"), version, "smoke", result))
    return rows


def table(rows: list[Row]) -> str:
    head = ("PostgreSQL", "Python", "tests", "result")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(text: str) -> None:
    """Put the table between the markers; without them, at the end of its section."""
    readme = README.read_text(encoding="utf-8")
    if BEGIN not in readme:
        section = readme.index(HEADING) + len(HEADING)
        end = readme.find("\n## ", section)
        end = len(readme) if end < 0 else end
        readme = f"{readme[:end].rstrip()}\n\n{BEGIN}\n{END}\n{readme[end:]}"
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests on all versions there are.")
    parser.add_argument("--quick", action="store_true", help="the smoke test only; writes nothing")
    quick = parser.parse_args().quick
    rows = on_servers(quick=quick) + on_pythons()
    print(table(rows), end="")
    if not quick:
        write(table(rows))
    return int(any(re.search("failed|error|ended", result) for *_, result in rows))


if __name__ == "__main__":
    sys.exit(main())
