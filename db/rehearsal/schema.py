"""A schema as pg_dump has it, and how one differs from another."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator

from ..errors import MigrationsError, one_line
from ..server.connection import Target
from ..server.programs import program, reached

_HEAD = re.compile(r"^-- Name: (.*); Type: (.*); Schema: (.*?); Owner: .*$", re.MULTILINE)


def dumped(target: Target, major: int, without: Collection[tuple[str, str]]) -> str:
    """Return what pg_dump says of the schema, `without` some tables.

    Raise `MigrationsError` if it fails.
    """
    arguments, env = reached(target)
    command = [program("pg_dump", major), *arguments, "--schema-only", "--encoding=UTF8"]
    command += [f"--exclude-table={_quoted(schema)}.{_quoted(name)}" for schema, name in without]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    if done.returncode:
        said = one_line(done.stderr.decode(errors="replace"))
        raise MigrationsError(f"pg_dump failed: {said}", "Nothing was executed on the target.")
    return done.stdout.decode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def differences(before: str, after: str) -> tuple[str, ...]:
    """Return what is there no more, what is new, and what is another one, object by object."""
    was, now = dict(_objects(before)), dict(_objects(after))
    gone = (f"{name} is gone" for name in was if name not in now)
    new = (f"{name} is left" for name in now if name not in was)
    other = (f"{name} is not as it was" for name in was if name in now and was[name] != now[name])
    return (*gone, *new, *other)


def _objects(dump: str) -> Iterator[tuple[str, str]]:
    """Yield each object by its kind and name, with its statements."""
    _, *parts = _HEAD.split(dump)
    for name, kind, schema, text in zip(*(parts[n::4] for n in range(4)), strict=True):
        place = "" if schema == "-" else f"{schema}."
        lines = (line for line in text.splitlines() if line and not line.startswith(("--", "\\")))
        yield f"{kind.lower()} {place}{name}", "\n".join(lines)
