"""db.init: what a project needs to have migrations, made where it is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FilesError
from ..events import Note
from ..settings import Settings

if TYPE_CHECKING:
    from .opened import Screen

_README = """\
# Migrations

Plain SQL files for PostgreSQL, named `[number]_[description].sql`, such as `001_create_users.sql`.
They run in alphabetical order, each once and in a transaction of its own: no `BEGIN`, no `COMMIT`.

A file that has been executed anywhere is not edited any more; write the next one.
"""
_ENV = """\
# Copy this to .env, and let git ignore that. What the environment says comes before it.

# Special characters in the password must be percent-encoded here (@ is %40) ...
DATABASE_URL=postgresql://user:password@localhost:5432/name

# ... but not here. Leave DATABASE_URL out to use these alone. A value that begins with a quote, or
# holds a # behind a space, stands in single quotes.
# PGHOST=localhost
# PGPORT=5432
# PGDATABASE=name
# PGUSER=user
# PGPASSWORD=password

# Each of these has the value it has when it is not set. What everybody is to have can stand in
# invoke.yaml instead, which is committed: under db:, as dir, schema, table, and so on.
# MIGRATIONS_DIR=migrations
# The base schema, which an empty database gets first, if there is one:
# MIGRATIONS_SCHEMA=db/schema.sql
# The ledger: table, or schema.table
# MIGRATIONS_TABLE=migrations
# SET ROLE for each file, so that this role owns what it makes:
# MIGRATIONS_ROLE=
# How long to wait for a server that is not there (yet):
# MIGRATIONS_CONNECT_TIMEOUT=30s
# How long one try may queue for a table's lock, and how long such tries go on:
# MIGRATIONS_LOCK_TIMEOUT=500ms
# MIGRATIONS_LOCK_WAIT=5min
# each: flush to disk after every file, not once a run
# MIGRATIONS_SYNC=once
# off: do without the advisory lock that makes runs take turns
# MIGRATIONS_GUARD=on
# A server that disposable databases may be made on; unless set, one runs here for the moment
# MIGRATIONS_SCRATCH=postgresql://user:password@host:5432/postgres
# What db.drift leaves out: globs over kind and name
# MIGRATIONS_DRIFT_IGNORE=TABLE public.tmp_*, * partman.*
# The file that db.models writes
# MIGRATIONS_MODELS=db/models.py
"""
_TASKS = '''\
"""Tasks of this project; `invoke --list` shows them."""

from invoke.collection import Collection

import invoke_pg_migrations.tasks

ns = Collection(db=Collection.from_module(invoke_pg_migrations.tasks))
'''


def init(settings: Settings, screen: Screen, *, tasks: bool) -> None:
    """Make the folder of migrations, .env.example and, if wanted, a tasks.py.

    What exists is left as it is. Raise `FilesError` if something cannot be made.
    """
    wanted = {settings.root / ".env.example": _ENV}
    if tasks:
        wanted[settings.root / "tasks.py"] = _TASKS
    if settings.folder.exists():
        screen.event(Note(f"is there already: {settings.shown(settings.folder)}"))
    else:  # git keeps no empty folder
        wanted = {settings.folder / "README.md": _README, **wanted}
    for path, text in wanted.items():
        done = "made" if _made(path, text, settings.shown(path)) else "is there already:"
        screen.event(Note(f"{done} {settings.shown(path)}"))
    if not _ignored(settings.root / ".gitignore"):
        screen.event(Note(".gitignore does not name .env, which will hold a password", "warning"))
    there = "name the database in .env"
    if not (settings.root / ".env").exists():  # which the copy would overwrite
        there = "copy .env.example to .env, and name the database there"
    screen.event(Note(f"next: {there}"))
    screen.event(Note('then: invoke db.new "create users", and: invoke db.migrate'))


def _made(path: Path, text: str, shown: str) -> bool:
    """Return whether the file was written; it is never written over."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    except OSError as error:
        raise FilesError(f"{shown} cannot be written: {error.strerror}.") from None
    return True


def _ignored(gitignore: Path) -> bool:
    try:
        lines = gitignore.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return any(line in (".env", "/.env", ".env*", "*.env") for line in lines)
