"""Every command on a terminal of 40, 80 and 200 columns, in a pipe, in colour, and in CI."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Project

FIRST, SECOND = "001_add_whatsapp_instances_table.sql", "002_add_index_to_messages.sql"
THIRD, REFUSED = "003_add_priority_to_campaigns.sql", "004_vacuum_the_messages_table.sql"
NAMES = (FIRST, SECOND, THIRD, REFUSED)

# In an order that gives each of them something to say; the exit code of each.
COMMANDS: dict[str, int] = {
    "db.wait": 0,
    "db.status": 0,
    f"db.plan --to {THIRD}": 0,
    "db.plan": 2,
    "db.migrate": 2,
    f"db.migrate-run --to {SECOND}": 0,
    f"db.migrate-single --name {THIRD}": 1,
    "db.lint": 1,
    "db.status --check": 3,
    "db.verify": 3,
    f"db.baseline --to {THIRD} --yes": 0,
    f"db.repair --name {FIRST} --accept --yes": 0,
    "db.rollback --yes": 0,
    f"db.plan --to {THIRD} --sql": 0,
    "db.new words": 0,
    "db.create": 0,
    "db.reset --yes": 2,
    "db.drop --yes": 0,
    "db.status --help": 2,
}
SURFACES: dict[str, tuple[int, Mapping[str, str]]] = {
    "40 columns": (40, {}),
    "80 columns": (80, {}),
    "200 columns": (200, {}),
    "a pipe": (0, {}),
    "a pipe in colour": (0, {"FORCE_COLOR": "1"}),
    "GitHub Actions": (0, {"CI": "true", "GITHUB_ACTIONS": "true", "FORCE_COLOR": "1"}),
}


def shown(project: Project, command: str, columns: int, environ: Mapping[str, str]) -> str:
    """Return what the command prints, without colours, and check how it ends."""
    arguments = [str(Path(sys.executable).parent / "invoke"), *command.split()]
    environment = {**project.environment(), "TERM": "xterm-256color", **environ}
    ours, theirs = pty.openpty() if columns else os.pipe()
    if columns:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        arguments,
        cwd=project.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == COMMANDS[command] or "--help" in command, seen.decode()
    said = seen.decode().replace("\r\n", "\n")
    assert ("\x1b[" in said) <= bool(columns or "FORCE_COLOR" in environ)
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said)


@pytest.mark.parametrize("surface", SURFACES)
def test_every_command_fits_where_it_is_shown(project: Project, surface: str) -> None:
    columns, environ = SURFACES[surface]
    project.write_schema("CREATE TABLE messages (id bigint PRIMARY KEY);\n")
    project.write(
        FIRST, "CREATE TABLE whatsapp_instances (id int);\nCREATE INDEX ON messages (id);"
    )
    project.write(SECOND, "DROP INDEX IF EXISTS an_index_that_was_never_there;")
    project.write(THIRD, "ALTER TABLE campaigns ADD COLUMN priority smallint;")
    project.write(THIRD.replace(".sql", ".down.sql"), "SELECT 1;")
    project.write(REFUSED, "VACUUM messages;")
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE messages (id bigint)")
        conn.execute("CREATE SCHEMA kept")
    for command in COMMANDS:
        if command.startswith("db.verify"):
            project.write(FIRST, "SELECT 'edited';")
        if command == "db.reset --yes":
            project.write(SECOND, "SELECT nonsense;")
        said = shown(project, command, columns, environ)
        assert "Traceback" not in said
        assert "\n\n\n" not in said
        if "--help" in command or "--sql" in command:
            continue
        for line in said.splitlines():
            is_laid_out = "  " in line.strip()
            assert len(line) <= (columns or 1000) or not is_laid_out, f"{command}\n{said}"
            assert not re.match(r"\s*::(?!error file=)", line), f"{command}\n{said}"
        if command == "db.status":
            assert all(name in said for name in NAMES)
