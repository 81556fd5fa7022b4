"""What the environment and `.env` say, checked and in one record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from .errors import SettingsError

# The folder that holds tasks.py: its .env is read, and never a parent folder's.
ROOT = Path(__file__).resolve().parents[1]

EMBEDDED_DATABASE = "whatsapp"
_UNITS_MS = {"": 1, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}

_NO_SETTINGS = """\
Put one of these into .env beside tasks.py (.env.example has them all), or into the environment:
  DATABASE_URL=embedded:                                    a PostgreSQL of its own, for development
  DATABASE_URL=postgresql://user:password@host:5432/name    a server
  PGHOST=… PGPORT=… PGDATABASE=… PGUSER=… PGPASSWORD=…      the same, no URL-escaping needed"""


@dataclass(frozen=True, slots=True)
class Settings:
    """One project's settings. `parameters` are libpq's, and may hold the password: never shown."""

    parameters: Mapping[str, str] = field(repr=False)
    folder: Path
    schema: Path
    root: Path = ROOT
    embedded: Path | None = None
    ledger: str = "migrations"
    role: str = ""
    connect_timeout_s: float = 30.0
    lock_timeout_ms: int = 500
    lock_wait_s: float = 300.0
    sync_each: bool = False
    guard: bool = True

    @classmethod
    def of(
        cls,
        url: str,
        folder: str | Path = "migrations",
        *,
        schema: str | Path | None = None,
        values: Mapping[str, str] | None = None,
    ) -> Settings:
        """Return the settings of a program: a URL (libpq's, or `embedded:PATH`) and a folder.

        `schema` is the base schema's file, if there is one. `values` are MIGRATIONS_… settings as
        in .env; the environment is not read. Raise `SettingsError` for what is not understood.
        """
        # The null device is no file, so there is no base schema.
        base = Path(os.devnull if schema is None else schema).absolute()
        given = {"MIGRATIONS_DIR": str(Path(folder).absolute()), "MIGRATIONS_SCHEMA": str(base)}
        return from_values({**(values or {}), **given}, url, root=Path.cwd())

    def shown(self, path: Path) -> str:
        """Return the path as people type it: relative to the project where it is inside."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


def read(
    environ: Mapping[str, str] | None = None, root: Path = ROOT, *, required: bool = True
) -> Settings:
    """Return the settings of the environment, and below them those of `root/.env`.

    Raise `SettingsError` if nothing says which database, unless that is not `required`, or a value
    cannot be understood.
    """
    values = _written(environ, root)
    url = values.get("DATABASE_URL", "").strip()
    libpq = _libpq_variables(values)
    named = url or libpq.keys() & {"host", "hostaddr", "service", "dbname"}
    if required and not named:
        raise SettingsError(
            "No database is named: DATABASE_URL and PGHOST are not set.", _NO_SETTINGS
        )
    return from_values(values, url, libpq if named else None, root)


def offline(environ: Mapping[str, str] | None = None, root: Path = ROOT) -> Settings:
    """Return the settings without a database, for what needs no driver either."""
    return from_values(_written(environ, root), "", root=root)


def _written(environ: Mapping[str, str] | None, root: Path) -> dict[str, str]:
    env = dict(os.environ if environ is None else environ)
    if not (root / ".env").exists():  # in most deploys, which need not pay for the import
        return env
    from dotenv import dotenv_values

    try:
        # Not interpolated: a password may hold a ${.
        written = dotenv_values(root / ".env", interpolate=False)
    except UnicodeDecodeError as error:
        message = f".env is not UTF-8 (byte {error.start}): save it as UTF-8"
        raise SettingsError(message) from None
    return {**{k: v for k, v in written.items() if v is not None}, **env}


def from_values(
    values: Mapping[str, str], url: str, libpq: Mapping[str, str] | None = None, root: Path = ROOT
) -> Settings:
    """Return the settings of a URL (libpq's, or `embedded:PATH`) and `MIGRATIONS_…` values."""
    parameters = dict(libpq or {})
    embedded = None
    if url.startswith("embedded:"):
        embedded = root / (url.removeprefix("embedded:") or ".postgres")
        parameters = {"dbname": parameters.get("dbname", EMBEDDED_DATABASE)}
    elif url:
        parameters |= _parse(url)
    return Settings(
        parameters=parameters,
        embedded=embedded,
        root=root,
        folder=root / values.get("MIGRATIONS_DIR", "migrations"),
        schema=root / values.get("MIGRATIONS_SCHEMA", "db/schema.sql"),
        ledger=values.get("MIGRATIONS_TABLE", "migrations"),
        role=values.get("MIGRATIONS_ROLE", ""),
        connect_timeout_s=_duration(values, "MIGRATIONS_CONNECT_TIMEOUT", "30s", "s") / 1000,
        lock_timeout_ms=_duration(values, "MIGRATIONS_LOCK_TIMEOUT", "500ms", "ms"),
        lock_wait_s=_duration(values, "MIGRATIONS_LOCK_WAIT", "5min", "s") / 1000,
        sync_each=_choice(values, "MIGRATIONS_SYNC", ("once", "each")) == "each",
        guard=_choice(values, "MIGRATIONS_GUARD", ("on", "off")) == "on",
    )


def _libpq_variables(values: Mapping[str, str]) -> dict[str, str]:
    """Return libpq's PG* variables as parameters, so that .env may hold them too.

    https://www.postgresql.org/docs/current/libpq-envars.html
    """
    from psycopg import pq

    known = {o.envvar.decode(): o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    return {known[name]: value for name, value in values.items() if name in known and value}


def _parse(url: str) -> dict[str, str]:
    """Return libpq's parameters of a URL or keyword string; never quotes it in an error."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if "://" in url:
        _check_url(url)
    elif "=" not in url:
        raise SettingsError(
            "DATABASE_URL is not a PostgreSQL URL.",
            "It looks like postgresql://user:password@host:5432/name, or embedded:",
        )
    try:
        return {k: str(v) for k, v in conninfo_to_dict(url).items() if v is not None}
    except ProgrammingError as error:
        # libpq's message may quote the password, unless it names a parameter.
        unknown = re.search(
            r'invalid (?:URI query parameter|connection option):? "(\w+)"', str(error)
        )
        if unknown and "password=" not in url:  # it could be what follows a space or & in it
            message = f"DATABASE_URL has a parameter that libpq does not know: {unknown[1]}"
            raise SettingsError(message, "Remove it; sslmode=require replaces ssl=true.") from None
        raise SettingsError(
            "DATABASE_URL cannot be understood.",
            "Percent-encode special characters, or set PGHOST, PGUSER, PGPASSWORD, … instead.",
        ) from None


def _check_url(url: str) -> None:
    """Refuse what libpq would read as something else than was meant, naming the character."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres"):
        raise SettingsError(
            f"DATABASE_URL begins with {scheme.split(':')[0]}://, which is not PostgreSQL's scheme."
            if re.fullmatch(r"[\w+.:-]+", scheme)
            else "DATABASE_URL does not begin with postgresql://.",
            "Write postgresql://user:password@host:5432/name.",
        )
    before, at, _ = rest.rpartition("@")
    if not at or before.startswith("/"):
        return
    _, _, password = before.partition(":")
    for character in "@/?#[] ":
        if character in before:
            raise SettingsError(
                f"The user or password in DATABASE_URL holds '{character}', "
                f"which must be written {quote(character, safe='')} there.",
                "Or set PGPASSWORD (and PGUSER), which need no escaping.",
            )
    if re.search(r"%(?![0-9A-Fa-f]{2})", password):
        raise SettingsError(
            "The password in DATABASE_URL holds '%', which must be written %25 there.",
            "Or set PGPASSWORD, which needs no escaping.",
        )


def _duration(values: Mapping[str, str], name: str, default: str, unit: str) -> int:
    """Return milliseconds. `unit` is what a bare number means."""
    text = values.get(name, "").strip() or default
    match = re.fullmatch(r"(\d+)\s*(ms|s|min|h|)", text)
    if not match:
        raise SettingsError(f"{name}={text} is not a duration.", "Write 500ms, 30s, 5min or 1h.")
    return int(match[1]) * _UNITS_MS[match[2] or unit]


def _choice(values: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    text = values.get(name, "").strip().lower() or choices[0]
    if text not in choices:
        raise SettingsError(f"{name}={text} is not known.", f"Write {' or '.join(choices)}.")
    return text
