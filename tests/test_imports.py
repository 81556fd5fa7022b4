"""Which room may import which: data flows one way, and the pure rooms need no database driver."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "db"

# From the ground up; a room imports only from the bands below its own, or beside it to the left.
BANDS = [
    ["errors", "events"],
    ["checksum", "script", "files", "plan", "new"],
    ["config", "embedded", "connection", "ledger", "watch", "pipeline"],
    ["survey", "session", "failure", "units", "waiting"],
    ["runner"],
    ["api", "everyday", "rollback", "dump"],
    ["tasks"],
]
ORDER = [room for band in BANDS for room in band]
ONLY_GROUND = {"report"}
PURE = {"checksum", "script", "files", "plan", "new"}


def imported(room: str) -> tuple[set[str], set[str]]:
    """Return the rooms and the packages that a room imports, anywhere in it."""
    rooms, packages = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{room}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [alias.name for alias in node.names]
            rooms |= {node.module} if node.module else set(names)
        elif isinstance(node, ast.ImportFrom):
            packages.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
    return rooms, packages


def test_every_room_has_its_place() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms == set(ORDER) | ONLY_GROUND


@pytest.mark.parametrize("room", [*ORDER, *ONLY_GROUND])
def test_a_room_imports_only_from_below(room: str) -> None:
    rooms, packages = imported(room)
    assert "db" not in packages
    if room in ONLY_GROUND:
        allowed = set(BANDS[0])
    elif room == "tasks":
        allowed = set(ORDER) | ONLY_GROUND
    else:
        allowed = set(ORDER[: ORDER.index(room)])
    assert rooms <= allowed


@pytest.mark.parametrize("room", sorted(PURE))
def test_the_pure_rooms_load_without_psycopg(room: str) -> None:
    code = f"import sys, db.{room}; sys.exit('psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
