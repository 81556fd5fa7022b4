"""PostgreSQL's own programs: where they are, and how they reach a target."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress

from psycopg import pq
from psycopg.conninfo import make_conninfo

from ..errors import SettingsError, pip
from ..settings import Settings
from .connection import Target, target


def program(name: str, at_least: int = 0) -> str:
    """Return the newest program of that name: on the PATH, or the wheel's.

    Raise `SettingsError` if there is none, or it is older than the server's major version.
    """
    folders = os.get_exec_path()
    with suppress(SettingsError):
        from . import embedded

        folders.append(str(embedded.wheel()))
    versions: dict[str, tuple[int, ...]] = {}
    for path in filter(None, (shutil.which(name, path=folder) for folder in folders)):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        numbers = re.search(r"\) (\d+)(?:\.(\d+))?", said.stdout)
        if numbers:
            versions[path] = tuple(int(n or 0) for n in numbers.groups())
    newest = max(versions, key=lambda path: versions[path], default="")
    if not newest:
        advice = f"Install PostgreSQL's client programs, or: {pip('embedded')}"
        raise SettingsError(f"There is no {name} on the PATH.", advice)
    if versions[newest][0] < at_least:
        raise SettingsError(
            f"The newest {name} here is {versions[newest][0]}, and the server is {at_least}.",
            f"Install the client programs of PostgreSQL {at_least} (postgresql-client-{at_least}).",
        )
    return newest


def reached(target: Target) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment that lead there: arguments hold no secret."""
    options = {o.keyword.decode(): o for o in pq.Conninfo.get_defaults()}
    secret = {k: v for k, v in target.parameters.items() if options[k].dispchar == b"*"}
    envvars = {k: options[k].envvar for k in secret}
    env = {envvar.decode(): secret[k] for k, envvar in envvars.items() if envvar}
    shown: dict[str, str] = {k: v for k, v in target.parameters.items() if k not in secret}
    return ["--dbname", make_conninfo("", **shown)], {**os.environ, **env}


def console(settings: Settings) -> int:
    """Run psql on the target, and return its exit code. An embedded server runs meanwhile."""
    with target(settings) as place:
        arguments, env = reached(place)
        before = signal.signal(signal.SIGINT, lambda *_: None)  # it is for psql
        try:
            return subprocess.run([program("psql"), *arguments], env=env, check=False).returncode
        finally:
            signal.signal(signal.SIGINT, before)
