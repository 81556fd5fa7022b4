"""What the environment, `.env` and `invoke.yaml` say, checked and in one record."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

from . import styles, urls
from .durations import milliseconds
from .errors import SettingsError
from .styles import Styles

EMBEDDED_DATABASE = "app"  # unless PGDATABASE says another
_SCHEMA = "db/schema.sql"
_MODELS = "db/models.py"

NAMES = (  # in lower case, and without MIGRATIONS_, also the keys of invoke.yaml
    "MIGRATIONS_DIR",
    "MIGRATIONS_SCHEMA",
    "MIGRATIONS_TABLE",
    "MIGRATIONS_ROLE",
    "MIGRATIONS_CONNECT_TIMEOUT",
    "MIGRATIONS_LOCK_TIMEOUT",
    "MIGRATIONS_LOCK_WAIT",
    "MIGRATIONS_SYNC",
    "MIGRATIONS_GUARD",
    "MIGRATIONS_SCRATCH",
    "MIGRATIONS_DRIFT_IGNORE",
    "MIGRATIONS_MODELS",
)
_URLS = ("MIGRATIONS_SCRATCH",)  # it may hold a password: never committed, and never quoted
_PREFIX = "MIGRATIONS_"
_NAME_BYTES = 63  # that PostgreSQL keeps of a name
_TABLE_BYTES = _NAME_BYTES - len("_unfinished")  # the progress table has the ledger's name
# libpq's variables that name a target; the others complete one, whoever has named it.
_SERVER = {"PGHOST": "host", "PGHOSTADDR": "hostaddr", "PGSERVICE": "service"}
_TARGET = {**_SERVER, "PGDATABASE": "dbname"}
_NAME = re.compile(r"[\w.-]*")  # none: a comment, or the end
_ASSIGNED = re.compile(r"\n\s*(?:export\s+)?(\w+)\s*=")
_OURS = re.compile("MIGRATIONS_|DATABASE_URL$|PG[A-Z]+$")
_NEVER_COMMITTED = re.compile("url|pass|secret|host|port|user|database|dbname|_pg")

_NONE: Mapping[str, str] = MappingProxyType({})
_NO_SETTINGS = """\
Put one of these into the environment, or into
  {file}
A PostgreSQL of the project's own, for development:
  DATABASE_URL=embedded:
A server:
  DATABASE_URL=postgresql://user:password@host:5432/name
The same, where nothing needs to be percent-encoded:
  PGHOST=… PGPORT=… PGDATABASE=… PGUSER=… PGPASSWORD=…"""


class Settings(NamedTuple):
    """One project's settings. `parameters` are libpq's, and may hold the password: never shown."""

    parameters: Mapping[str, str]
    folder: Path
    schema: Path
    root: Path  # what relative paths are relative to, and where .env stands
    schema_named: bool = False  # and not only looked for where it usually is
    origin: str = ""  # what names the target, in words
    embedded: Path | None = None
    ledger: str = "migrations"
    role: str = ""
    connect_timeout_s: float = 30.0
    lock_timeout_ms: int = 500
    lock_wait_s: float = 300.0
    sync_each: bool = False
    guard: bool = True
    scratch: Mapping[str, str] = _NONE  # libpq's parameters, as above
    drift_ignore: tuple[str, ...] = ()  # globs over `TYPE schema.name`
    models: Path = Path(_MODELS)
    styles: Styles = Styles()

    def __repr__(self) -> str:
        return f"Settings(root={self.root!r}, folder={self.folder!r}, ledger={self.ledger!r})"

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
        in .env; those of the environment are not read. Raise `SettingsError` for what is not
        understood.
        """
        # The null device is no file, so there is no base schema.
        base = Path(os.devnull if schema is None else schema).absolute()
        given = {"MIGRATIONS_DIR": str(Path(folder).absolute()), "MIGRATIONS_SCHEMA": str(base)}
        return from_values({**(values or {}), **given}, url)

    def shown(self, path: Path) -> str:
        """Return the path as people type it: relative to the project where it is inside."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


class _Where(NamedTuple):
    """The folder of an embedded server, or libpq's parameters; and what says so, in words."""

    embedded: Path | None = None
    parameters: Mapping[str, str] = _NONE
    origin: str = ""


def read(
    root: Path,
    committed: object = None,
    environ: Mapping[str, str] | None = None,
    *,
    required: bool = True,
) -> Settings:
    """Return the settings of the environment, below them those of `root/.env`, and then those
    that are `committed`: what invoke's configuration has under `db`.

    Raise `SettingsError` if nothing says which database, unless that is not `required`, or a name
    or a value cannot be understood.
    """
    env, written = _levels(environ, root)
    where = _target(env, written, root)
    if required and not (where.embedded or where.parameters):
        raise SettingsError(
            "No database is named: DATABASE_URL and PGHOST are not set.",
            _NO_SETTINGS.format(file=root / ".env"),
        )
    made = _settings(_own(env, written, committed), where, root)
    return made._replace(styles=styles.of(committed))


def offline(
    root: Path, committed: object = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings without a database, for what needs no driver either."""
    made = _settings(_own(*_levels(environ, root), committed), _Where(), root)
    return made._replace(styles=styles.of(committed))


def of_many(
    root: Path, committed: object = None, environ: Mapping[str, str] | None = None
) -> Callable[[str], Settings]:
    """Return what makes the settings of each of many targets out of its URL; raise as `read` does.

    What a URL leaves open, libpq's variables say: no database, nor a server beside the URL's.
    """
    env, written = _levels(environ, root)
    base = _settings(_own(env, written, committed), _Where(), root)
    completing = urls.variables({**written, **env})

    def of(url: str) -> Settings:
        named = urls.parse(url, "the URL")
        left_out = {"dbname"}
        if "service" in named:  # whose file says where
            left_out |= {*_SERVER.values(), "port", "user"}
        elif named.keys() & {"host", "hostaddr"}:
            left_out.update(_SERVER.values())
        if not named.keys() & {"dbname", "service"}:
            raise SettingsError("the URL names no database.")
        below = {name: value for name, value in completing.items() if name not in left_out}
        return base._replace(parameters={**below, **named}, origin=_beside("its URL", below))

    return of


def from_values(values: Mapping[str, str], url: str, root: Path | None = None) -> Settings:
    """Return the settings of a URL (libpq's, or `embedded:PATH`) and `MIGRATIONS_…` values.

    Relative paths are relative to `root`, or else the working directory.
    """
    base = root or Path.cwd()
    _check_names(values, "these settings")
    return _settings(values, _where(url, {}, base, "the URL"), base)


def _levels(
    environ: Mapping[str, str] | None, root: Path
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return what the environment says and what `.env` says; what is empty is not said."""
    env = {k: v for k, v in (os.environ if environ is None else environ).items() if v.strip()}
    file = root / ".env"
    try:
        if not file.exists():  # in most deploys, which need not pay for the import
            return env, {}
        _readable(file)
        with file.open(encoding="utf-8-sig") as stream:  # with or without a BOM
            written = _written(stream)
    except UnicodeDecodeError as error:
        message = f".env is not UTF-8 (byte {error.start}): save it as UTF-8"
        raise SettingsError(message) from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}.") from None
    return env, {k: v for k, v in written.items() if v.strip()}


def _written(stream: IO[str]) -> dict[str, str]:
    """Return what `.env` says. Not interpolated: a password may hold a ${.

    Raise `SettingsError` for a line that says nothing, which dotenv's own reader would skip, so
    that a run would work with other settings than are written. Its text may be a password.
    """
    from dotenv.parser import parse_stream

    values = {}
    for line in parse_stream(stream):
        key, alone = line.key or "", line.value is None
        # A name alone is docker's: that one takes it from its own environment.
        odd = urls.may_tell(key) or (alone and not _NAME.fullmatch(key))
        if line.error or odd or _takes_in(key, line.value or ""):
            text = line.original.string
            blank = text[: len(text) - len(text.lstrip())].count("\n")
            raise SettingsError(
                f".env:{line.original.line + blank} cannot be understood.",
                "Write NAME=value, and close a quote that is open; a comment begins with #.",
            )
        values[key] = line.value or ""
    return values


def _takes_in(name: str, value: str) -> bool:
    """Return whether an open quote takes in the lines up to the next quote, and one is of ours."""
    inside = _ASSIGNED.findall(value)
    return bool(inside) and any(map(_OURS.match, (name, *inside)))


def _own(env: Mapping[str, str], written: Mapping[str, str], committed: object) -> dict[str, str]:
    """Return our own settings, each from the highest level that says it."""
    values = _committed(committed)
    for origin, level in ((".env", written), ("the environment", env)):
        own = {name: value for name, value in level.items() if name.startswith(_PREFIX)}
        _check_names(own, origin)
        values |= own
    return values


def _committed(given: object) -> dict[str, str]:
    """Return what invoke's configuration has under `db`, by the names of the environment."""
    if given is None:
        return {}
    if not hasattr(given, "items"):  # invoke has a class of its own for what is nested
        message = "db: in invoke.yaml holds no settings."
        raise SettingsError(message, "Write them below it, indented, such as dir: sql/migrations")
    values = {}
    for key, said in given.items():
        nested = key == "models" and hasattr(said, "items")
        value = styles.under_models(given).get("out") if nested else said
        name = f"{_PREFIX}{key}".upper().replace("-", "_")
        unknown = name not in NAMES
        if name in _URLS or (unknown and _NEVER_COMMITTED.search(name.lower())):
            raise SettingsError(
                f"db.{key} does not belong in invoke.yaml, which is committed: "
                "where the database is, and its password, are not.",
                f"Put {'DATABASE_URL, or PGHOST, PGUSER, PGPASSWORD, …,' if unknown else name} "
                "into the environment or .env.",
            )
        if value is not None and not isinstance(value, str | int):
            raise SettingsError(f"db.{key} in invoke.yaml is not one value.")
        if isinstance(value, bool):  # what YAML takes on and off for
            values[name] = "on" if value else "off"
        else:
            values[name] = "" if value is None else str(value)
    _check_names(values, "invoke.yaml", lambda name: "db." + name.removeprefix(_PREFIX).lower())
    return values


def _check_names(names: Iterable[str], origin: str, spelled: Callable[[str], str] = str) -> None:
    for name in names:
        if name not in NAMES:
            from difflib import get_close_matches

            close = get_close_matches(name, NAMES, n=1, cutoff=0.0)
            raise SettingsError(
                f"{spelled(name)}, in {origin}, is no setting.",
                f"Did you mean {spelled(close[0])}? There are: {', '.join(map(spelled, NAMES))}.",
            )


def _target(env: Mapping[str, str], written: Mapping[str, str], root: Path) -> _Where:
    """Return where the highest level leads that names a server.

    libpq's other variables complete it, each from the highest level that says it.
    """
    for origin, level in (("the environment", env), (".env", written)):
        if "DATABASE_URL" in level:
            url = level["DATABASE_URL"].strip()
            _check_agreement(url, {n: level[n] for n in _TARGET if n in level}, origin)
            above = level is env
            below = {n: v for n, v in written.items() if not (above and n in (*_TARGET, "PGPORT"))}
            found = _where(url, urls.variables({**below, **env}), root, f"DATABASE_URL in {origin}")
            if not above and "PGDATABASE" in env:
                there = {**found.parameters, "dbname": env["PGDATABASE"]}
                return found._replace(parameters=there)
            return found
        if level.keys() & _SERVER.keys():
            below = {n: v for n, v in written.items() if n not in _SERVER or level is written}
            return _of_variables(env, below)
    return _of_variables(env, written) if "PGDATABASE" in {**written, **env} else _Where()


def _of_variables(env: Mapping[str, str], written: Mapping[str, str]) -> _Where:
    levels = {"the environment": urls.variables(env), ".env": urls.variables(written)}
    origins = " and ".join(origin for origin, said in levels.items() if said)
    parameters = {**levels[".env"], **levels["the environment"]}
    return _Where(None, parameters, f"the PG* variables in {origins}")


def _where(url: str, completing: Mapping[str, str], root: Path, origin: str) -> _Where:
    """Return where a URL leads that is named so, completed by libpq's parameters."""
    if url.startswith("embedded:"):
        folder = root / (url.removeprefix("embedded:") or ".postgres")
        return _Where(folder, {"dbname": completing.get("dbname", EMBEDDED_DATABASE)}, origin)
    named = urls.parse(url) if url else {}
    beside = completing.keys() - named.keys()
    return _Where(None, {**completing, **named}, _beside(origin, beside))


def _beside(origin: str, others: Collection[str]) -> str:
    return f"{origin} and the PG* variables beside it" if others else origin


def _check_agreement(url: str, beside: Mapping[str, str], origin: str) -> None:
    """Refuse variables beside a URL that name another target than it does."""
    if not beside:
        return
    if url.startswith("embedded:"):
        others = beside.keys() & _SERVER.keys()
    else:
        named = urls.parse(url)
        complete = () if named.keys() & {"service", "hostaddr"} else ("host", "dbname")
        others = {
            name
            for name, value in beside.items()
            if named.get(_TARGET[name], value if _TARGET[name] in complete else None) != value
        }
    if others:
        raise SettingsError(
            f"DATABASE_URL and {' and '.join(sorted(others))}, both in {origin}, "
            "name different targets.",
            "Leave one out.",
        )


def _settings(said: Mapping[str, str], where: _Where, root: Path) -> Settings:
    values = {name: _value(name, text) for name, text in said.items() if text.strip()}
    table = values.get("MIGRATIONS_TABLE", "migrations")
    schema, dot, name = table.rpartition(".")
    if not name or (dot and not schema):
        message = f"MIGRATIONS_TABLE={table} is no name of a table."
        raise SettingsError(message, "Write table, or schema.table.")
    if len(name.encode()) > _TABLE_BYTES or len(schema.encode()) > _NAME_BYTES:
        raise SettingsError(
            f"MIGRATIONS_TABLE={table} is too long: a table's name may have {_TABLE_BYTES} bytes "
            f"here, a schema's {_NAME_BYTES}.",
            "PostgreSQL would cut it off, or that of the table beside it. Choose a shorter one.",
        )
    return Settings(
        parameters=where.parameters,
        embedded=where.embedded,
        origin=where.origin,
        root=root,
        folder=root / values.get("MIGRATIONS_DIR", "migrations"),
        schema=_readable(root / values.get("MIGRATIONS_SCHEMA", _SCHEMA)),
        schema_named=values.get("MIGRATIONS_SCHEMA", _SCHEMA) != _SCHEMA,
        ledger=table,
        role=values.get("MIGRATIONS_ROLE", ""),
        connect_timeout_s=_duration(values, "MIGRATIONS_CONNECT_TIMEOUT", "30s", "s") / 1000,
        lock_timeout_ms=_duration(values, "MIGRATIONS_LOCK_TIMEOUT", "500ms", "ms"),
        lock_wait_s=_duration(values, "MIGRATIONS_LOCK_WAIT", "5min", "s") / 1000,
        sync_each=_choice(values, "MIGRATIONS_SYNC", ("once", "each")) == "each",
        guard=_choice(values, "MIGRATIONS_GUARD", ("on", "off")) == "on",
        scratch=_scratch(values.get("MIGRATIONS_SCRATCH", "")),
        drift_ignore=_globs(values.get("MIGRATIONS_DRIFT_IGNORE", "")),
        models=root / values.get("MIGRATIONS_MODELS", _MODELS),
    )


def _readable(file: Path) -> Path:
    """Return the path. Raise `SettingsError` for a pipe, a socket or a folder in place of a file.

    Whoever reads a pipe waits for somebody who writes. The null device is read as no file.
    """
    with suppress(OSError):  # it is said when it is read
        if file.exists() and not file.is_file() and not file.samefile(os.devnull):
            kind = "a folder" if file.is_dir() else "no regular file"
            raise SettingsError(f"{file} is {kind}. Put a file there, or nothing.")
    return file


def _globs(text: str) -> tuple[str, ...]:
    return tuple(glob.strip() for glob in text.split(",") if glob.strip())


def _scratch(url: str) -> Mapping[str, str]:
    return urls.parse(url, "MIGRATIONS_SCRATCH") if url else _NONE


def _value(name: str, text: str) -> str:
    """Return the value, which may be quoted unless it is that of a URL.

    Not every reader of such files takes a comment off (docker does not).
    """
    value = text.strip()
    if name not in _URLS:
        urls.refuse_url(value, name)
    if re.search(r"(^|\s)#", value):
        shown = "." if name in _URLS else f": {value}"
        message = f"{name} has a comment behind its value{shown}"
        raise SettingsError(message, "Put the comment on a line of its own.")
    return value


def _duration(values: Mapping[str, str], name: str, default: str, unit: str) -> int:
    return duration(name, values.get(name, default), unit)


def duration(name: str, text: str, unit: str) -> int:
    """Return milliseconds. `unit` is what a bare number means, `name` what the text is for."""
    found = milliseconds(text, unit)
    if found is None:
        raise SettingsError(f"{name}={text} is not a duration.", "Write 500ms, 30s, 5min or 1h.")
    return found


def _choice(values: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    text = values.get(name, choices[0]).lower()
    if text not in choices:
        raise SettingsError(f"{name}={text} is not known.", f"Write {' or '.join(choices)}.")
    return text
