"""Which room may import which: data flows one way, and the pure floors need no database driver."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "db"

# From the ground up. A room imports from the floors below its own, or beside it to the left.
FLOORS = {
    "": ["errors", "events", "durations", "pauses", "urls", "styles", "settings", "project"],
    "sql": [
        *("checksum", "kinds", "effects", "traces"),
        *("source", "positions", "lexer", "repeat", "script"),
    ],
    "files": ["folder", "renames", "plan", "new", "lint"],
    "server": [
        "ours",
        "postmaster",
        "embedded",
        "ahead",
        "pooler",
        "connection",
        "described",
        "local",
        "pipeline",
        "watch",
        "programs",
        "pg_dump",
        "databases",
    ],
    "engine": [
        *(
            "place",
            "ledger",
            "survey",
            "running",
            "session",
            "frame",
            "remedy",
            "failure",
            "resume",
            "pooled",
            "check",
        ),
        *("transaction", "state", "targets", "progress", "outside", "pace", "batches", "units"),
        *("waiting", "recovery", "account", "sender", "runner", "rollback"),
    ],
    "scratch": [
        "clusters",
        "roles",
        "database",
        "fill",
        "files",
        "objects",
        "beside",
        "again",
        "compared",
    ],
    "rehearsal": [
        *("locks", "seen", "measured", "outside", "run", "sizes", "charges", "findings"),
        *("told", "undone", "stage"),
    ],
    "fleets": ["roster", "ledgers", "capacity", "tally", "crew"],
    "clones": ["server", "template", "leftovers", "pool", "databases"],
    "typed": ["text", "catalog", "names", "annotations", "scope", "module"],
    "commands": [
        *("opened", "init", "status", "as_sql", "plan", "verify"),
        *(
            "baseline",
            "repair",
            "rollback",
            "database",
            "rows",
            "dump",
            "drift",
            "dump_check",
            "models",
            "rehearse",
            "fleet",
        ),
    ],
}
ORDER = [f"{floor}.{room}".strip(".") for floor, rooms in FLOORS.items() for room in rooms]
ORDER += ["api", "testing", "pytest_plugin", "command_line", "tasks", "program"]
SCREEN_ROOMS = (
    "stream",
    "tables",
    "json_lines",
    "rehearsal",
    "differences",
    "lines",
    "markdown",
    "spelling",
    "report",
)
SCREEN = {f"screen.{room}" for room in SCREEN_ROOMS}
OURS = {"models"}  # the project's own, made by db.models
PURE = [room for room in ORDER if room.startswith(("sql.", "files."))]


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(room: str) -> set[str]:
    """Return the rooms that a room imports, anywhere in it; imports are relative."""
    path = PACKAGE / (room.replace(".", "/") + ".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1] / (node.module or "").replace(".", "/")
            inside = [base / alias.name for alias in node.names] if base.is_dir() else [base]
            found |= {module(each.with_suffix(".py")) for each in inside}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            named = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            assert not any(str(name).split(".")[0] == "db" for name in named)
    return found


def test_every_room_has_its_place() -> None:
    rooms = {module(path) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert rooms == {*ORDER, *SCREEN, *OURS}
    assert not any(imported(room) for room in OURS)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_below(room: str) -> None:
    allowed = {
        *ORDER[: ORDER.index(room)],
        *(SCREEN if room in ("testing", "command_line", "tasks", "program") else ()),
    }
    assert imported(room) <= allowed


@pytest.mark.parametrize("room", sorted(SCREEN))
def test_the_screen_sees_only_the_ground(room: str) -> None:
    assert imported(room) <= {"errors", "events", *SCREEN}


@pytest.mark.parametrize("room", PURE)
def test_the_pure_floors_load_without_psycopg(room: str) -> None:
    code = f"import sys, db.{room}; sys.exit('psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
