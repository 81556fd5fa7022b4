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
from invoke.collection import Collection

from db import tasks
from tests.conftest import Project

FIRST, SECOND = "001_add_whatsapp_instances_table.sql", "002_add_index_to_messages.sql"
THIRD, REFUSED = "003_add_priority_to_campaigns.sql", "004_vacuum_the_messages_table.sql"
NAMES = (FIRST, SECOND, THIRD, REFUSED)

# In an order that gives each of them something to say; the exit code of the last one. Those that
# end well share a process.
COMMANDS: dict[tuple[str, ...], int] = {
    ("db.wait", "db.status", f"db.plan --to {THIRD}", "db.plan"): 2,
    ("db.migrate",): 2,
    (f"db.migrate-run --to {SECOND}", f"db.migrate-single --name {THIRD}"): 1,
    ("db.lint",): 1,
    (f"db.rehearse --name {THIRD}",): 1,
    ("db.fleet --schemas kept --status", "db.drift"): 3,
    ("db.models --out made.py",): 2,
    ("db.status --check",): 3,
    ("db.verify",): 3,
    (
        f"db.baseline --to {THIRD} --yes",
        f"db.repair --name {FIRST} --accept --yes",
        "db.dump --file dumped.sql",
        "db.rollback --yes",
        "db.init",
        "db.create",
        "db.console",
    ): 0,
    (f"db.plan --to {THIRD} --sql", "db.new words"): 0,
    ("db.reset --yes",): 2,
    ("db.drop --yes",): 0,
    ("db.status --help",): 0,
}
SURFACES: dict[str, tuple[int, Mapping[str, str]]] = {
    "40 columns": (40, {}),
    "80 columns": (80, {}),
    "200 columns": (200, {}),
    "a pipe": (0, {}),
    "a pipe in colour": (0, {"FORCE_COLOR": "1"}),
    "GitHub Actions": (0, {"CI": "true", "GITHUB_ACTIONS": "true", "FORCE_COLOR": "1"}),
}


def shown(
    project: Project, commands: tuple[str, ...], columns: int, environ: Mapping[str, str]
) -> str:
    """Return what the commands print, without colours, and check how they end."""
    arguments = [str(Path(sys.executable).parent / "invoke"), *" ".join(commands).split()]
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
    assert process.wait(60) == COMMANDS[commands], seen.decode()
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
    for commands in COMMANDS:
        if commands == ("db.verify",):
            project.write(FIRST, "SELECT 'edited';")
        if commands == ("db.reset --yes",):
            project.write(SECOND, "SELECT nonsense;")
        said = shown(project, commands, columns, environ)
        assert "Traceback" not in said
        assert "\n\n\n" not in said
        if "--help" in commands[0] or "--sql" in commands[0]:
            continue
        for line in said.splitlines():
            of_drift = line.endswith(("missing", "unexpected", "differs"))  # no name is cut
            is_laid_out = "  " in line.strip() and not of_drift
            assert len(line) <= (columns or 1000) or not is_laid_out, f"{commands}\n{said}"
            assert not re.match(r"\s*::(?!error file=)", line), f"{commands}\n{said}"
        if "db.status" in commands:
            assert all(name in said for name in NAMES)
    assert (project.folder / "dumped.sql").is_file()


def test_no_command_is_left_out() -> None:
    tried = {command.split()[0] for commands in COMMANDS for command in commands}
    assert tried == {f"db.{name}" for name in Collection.from_module(tasks).task_names}


def test_a_commands_explanation_fits_80_columns(project: Project) -> None:
    for name in Collection.from_module(tasks).task_names:
        usage, *lines = project.invoke("--help", f"db.{name}").stdout.splitlines()
        assert usage.startswith("Usage: ")  # invoke's own
        assert [line for line in lines if len(line) > 80] == []
