"""PostgreSQL's own programs on the target: the schema by pg_dump, a console by psql."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from ..engine import ledger, place
from ..errors import MigrationsError, SettingsError
from ..events import Note
from ..files import folder
from ..server.programs import program, reached
from ..settings import Settings
from ..sql.script import Script
from .opened import Screen, connected, read_only

_HEADER = folder.DUMPED + b"-- A new database gets it: invoke db.migrate"
# Timeouts that the runner sets, or that older servers lack; and what needs an owner's rights.
_DROPPED = re.compile(rb"(?i)\\|SET \w+_timeout\b|COMMENT ON EXTENSION\b")
_NAMED = re.compile(rb"^-- Name: .*", re.MULTILINE)
_LOCK_WAIT = "--lock-wait-timeout=30s"


def dump(settings: Settings, screen: Screen, path: Path) -> None:
    """Write the schema, and what is executed, to a file that db.migrate can load."""
    with (
        connected(settings, screen, writing=False) as (target, conn, server),
        read_only(conn, server),
    ):
        book = place.find(conn, settings.ledger)
        executed = ledger.read(conn, book)
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        arguments, env = reached(target)
        command = [program("pg_dump", conn.info.server_version // 10000), *arguments]
        command += ["--schema-only", "--no-owner", "--no-privileges", "--encoding=UTF8"]
        command += [_LOCK_WAIT, f"--snapshot={row[0]}"]
        command += [f"--exclude-table={name}" for name in ledger.relations(conn, book)]
        done = subprocess.run(command, env=env, capture_output=True, check=False)
    if done.returncode:
        said = target.redacted(done.stderr.decode(errors="replace"))
        raise MigrationsError(f"pg_dump failed: {said}", "Nothing was written.")
    numbered = sorted(name for name in executed if folder.is_named(name))
    recorded = ledger.dumped(book, [executed[n] for n in numbered]) if book.exists else ""
    parts = [_HEADER, *_normalised(done.stdout), recorded.encode().rstrip()]
    changed = _replace(path.resolve(), b"\n\n".join(filter(None, parts)) + b"\n")
    wrote = "written" if changed else "is as it was"
    names = f"executed migrations in it: {len(numbered)}"
    screen.event(Note(f"{wrote}; {names}", filename=settings.shown(path.absolute())))


def _normalised(text: bytes) -> list[bytes]:
    """Return the statements, each with its comment, without what differs from dump to dump."""
    script, kept, at = Script(text, "the dump"), [], 0
    for found in script.statements():
        sql, gap = script.sql(found), text[at : found.start]
        at = found.end if sql[:1] == b"\\" else text.index(b";", found.end) + 1
        if _DROPPED.match(sql):
            continue
        sql = re.sub(rb"^CREATE SCHEMA (?!IF\b)", b"CREATE SCHEMA IF NOT EXISTS ", sql)
        names = _NAMED.findall(gap)
        kept.append(b"".join(b"--\n%b\n--\n\n" % name for name in names[-1:]) + sql + b";")
    return kept


def _replace(path: Path, text: bytes) -> bool:
    """Put the text in place of the file, whole or not at all; return whether it is another one."""
    try:
        before = path.read_bytes() if path.exists() else None
        if before == text:
            return False
        mode = path.stat().st_mode & 0o777 if before is not None else 0o644
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            new = Path(file.name)
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                new.chmod(mode)
                new.replace(path)
            except BaseException:
                new.unlink()
                raise
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from None
    return True
