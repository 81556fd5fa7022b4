"""A folder of migrations, in the order they run, and what is wrong with it. No database."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ..errors import FilesError, refuse
from ..sql import checksum

if TYPE_CHECKING:
    from ..sql.script import Script

NAME_LENGTH = 255  # characters: the ledger's filename column
DOWN = ".down.sql"  # the end of what undoes a file
DUMPED = b"-- The schema, written by: invoke db.dump\n"
LEDGER = "-- The ledger: "  # lines of the dump's head
SERVER = "-- The server: PostgreSQL "
_NAME = re.compile(r"(?P<number>\d+)_.+\.sql", re.ASCII | re.DOTALL)
_RULE = "Migrations are named [number]_[description].sql, such as 002_add_index_to_campaigns.sql."


class Migration(NamedTuple):
    """A file of the folder. `shown` is its path as people type it."""

    filename: str
    path: Path
    shown: str
    checksum: str
    shared: Shared | None = None  # its script, where it is read for many runs

    @property
    def number(self) -> int:
        """Return the number its name begins with; the base schema's is below them all."""
        match = _NAME.fullmatch(self.filename)
        return int(match["number"]) if match else -1

    @property
    def digits(self) -> str:
        """Return that number as it is written."""
        return re.match(r"\d*", self.filename)[0]  # type: ignore[index]  # matches always

    def script(self) -> Script:
        """Return what is in it. Raise `FileChanged` if it cannot be read any more."""
        if self.shared is not None:
            return self.shared.script(self)
        from ..sql.script import Script

        return Script.open(self.path, self.shown)


class Shared:
    """The script of a small file, read by whoever comes first; a large one is read by each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: Script | None = None

    def script(self, of: Migration) -> Script:
        with self._lock:
            if self._script is not None:
                return self._script
            found = of._replace(shared=None).script()
            if found.is_kept:
                self._script = found
            return found


def discover(folder: Path, shown: str) -> tuple[Migration, ...]:
    """Return the folder's migrations in alphabetical order.

    Names that start with a dot, other endings than .sql, and .down.sql companions are no
    migrations. Raise `FilesError` if there is no such folder, or for all .sql files at once that
    are not named by the pattern, cannot be read, or are not UTF-8.
    """
    migrations, refused = list[Migration](), list[FilesError]()
    with _readable(shown):
        for path in _in_order(folder):
            try:
                check_name(path.name, path, f"{shown}/{path.name}")
                migrations.append(load(path, f"{shown}/{path.name}"))
            except FilesError as error:
                refused.append(error)
    refuse(refused, "Nothing was executed.", "db.status --json")
    return tuple(migrations)


def shared(migrations: Iterable[Migration]) -> tuple[Migration, ...]:
    """Return the same for many runs at once: each file is read and taken apart for the first."""
    return tuple(m._replace(shared=Shared()) for m in migrations)


def paths(folder: Path, shown: str) -> list[Path]:
    """Return the folder's migrations in alphabetical order, unread. Raise as `discover` does."""
    with _readable(shown):
        found = _in_order(folder)
        try:
            for path in found:
                check_name(path.name, path, f"{shown}/{path.name}")
        except FilesError:
            discover(folder, shown)  # whose refusal has what is wrong with the others as well
            raise
    return found


def _in_order(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if _is_sql(p.name)), key=lambda path: path.name)


@contextmanager
def _readable(shown: str) -> Iterator[None]:
    """Raise `FilesError` for a folder that is not there or cannot be read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FilesError(
            f"There is no folder {shown}.",
            "Create it (invoke db.init), or set MIGRATIONS_DIR to the folder of the migrations.",
        ) from None
    except OSError as error:
        raise FilesError(f"The folder {shown} cannot be read: {error.strerror}.") from None


def empty(folder: Path, shown: str) -> str:
    """Return what is to be said of a folder without migrations."""
    said = f"the folder {shown} holds no migrations"
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return (
        f"{said}, but folders, such as {inside[0]}: only files beside them run" if inside else said
    )


def is_dump(path: Path) -> bool:
    """Return whether db.dump has written the file."""
    with path.open("rb") as file:
        return file.read(len(DUMPED)) == DUMPED


def lacks_privileges(path: Path) -> bool:
    """Return whether a dump says that it holds no privileges, though there were some."""
    with path.open("rb") as file:
        return any(line.startswith(b"-- Not in it: privileges ") for line in _head(file))


def dumped_major(path: Path) -> int:
    """Return the major version of the server that a dump is of; 0 if the dump does not say it."""
    with path.open("rb") as file:
        for line in _head(file):
            if line.startswith(SERVER.encode()):
                number = line.removeprefix(SERVER.encode()).strip()
                return int(number) if number.isdigit() else 0
    return 0


def _head(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if not line.startswith(b"--"):
            return
        yield line


def dumped_ledger(path: Path) -> str | None:
    """Return the ledger, as schema.table, that a dump records into.

    None if there is no such file, db.dump has not written it, or it says nothing of a ledger.
    """
    try:
        with path.open("rb") as file:
            if file.readline() != DUMPED:
                return None
            for line in file:
                if not line.startswith(b"--"):
                    return None
                if line.startswith(LEDGER.encode()):
                    return line.decode(errors="replace").removeprefix(LEDGER).rstrip("\n")
    except OSError:
        return None
    return None


def companion(path: Path) -> Path:
    """Return where the file is that undoes this one, if there is one."""
    return path.with_name(path.name.removesuffix(".sql") + DOWN)


def _is_sql(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(".sql") and not lower.endswith(DOWN) and name[0] != "."


def is_named(name: str) -> bool:
    """Return whether the name follows the pattern."""
    return bool(_NAME.fullmatch(name))


def check_name(name: str, path: Path, shown: str) -> None:
    """Raise `FilesError` unless the name follows the pattern and is that of a regular file."""
    printable = ascii(shown) if not shown.isprintable() else shown
    if not _NAME.fullmatch(name) or not name.isprintable():
        rule = _RULE if name.endswith(".sql") else f"Its ending is to be in small letters. {_RULE}"
        raise FilesError(f"{printable} is not named as a migration. Nothing was executed.", rule)
    if len(name) > NAME_LENGTH:
        raise FilesError(f"{shown}: the name is longer than {NAME_LENGTH} characters.")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a file that can be read"
        raise FilesError(f"{shown} is {kind}. Nothing was executed.", _RULE)


@contextmanager
def readable(shown: str) -> Iterator[None]:
    """Raise `FilesError` for what the system refuses, be it only whether there is a file."""
    try:
        yield
    except OSError as error:
        raise FilesError(f"{shown} cannot be read: {error.strerror}.") from None


def load(path: Path, shown: str) -> Migration:
    """Return the migration of one file, whose name may be anything (the base schema's is)."""
    with readable(shown):
        return Migration(path.name, path, shown, checksum.read(path, shown))


def find(migrations: Sequence[Migration], name: str) -> Migration:
    """Return the migration of that name; a path to it is understood as well.

    Raise `FilesError` with the closest names if there is none.
    """
    if len(name) > NAME_LENGTH and "/" not in name:
        raise FilesError(f"The name is longer than {NAME_LENGTH} characters: {name[:40]}…")
    wanted = Path(name).name
    by_name = {m.filename: m for m in migrations}
    found = by_name.get(wanted) or by_name.get(f"{wanted}.sql")
    if found:
        return found
    close = difflib.get_close_matches(wanted, by_name, n=3, cutoff=0.4)
    close += [n for n in by_name if n.startswith(wanted) and n not in close][:3]
    advice = f"Did you mean {' or '.join(close)}?" if close else "The folder holds no such name."
    raise FilesError(f"There is no migration named {wanted!r}.", advice)


def check_order(migrations: Iterable[Migration], pending: set[str]) -> None:
    """Raise `FilesError` if alphabetical order would run a pending file out of its number."""
    for first, second in pairwise(migrations):
        if first.number > second.number and pending & {first.filename, second.filename}:
            raise FilesError(
                f"{first.filename} sorts before {second.filename}: files run in alphabetical "
                "order of their names. Nothing was executed.",
                *padding(first, second, executed=second.filename not in pending),
            )


def padding(first: Migration, second: Migration, *, executed: bool | None) -> list[str]:
    """Return how to make the second sort by its number. `executed`: None if it may be."""
    width = max(len(first.digits), len(second.digits))
    padded = second.digits.zfill(width) + second.filename[len(second.digits) :]
    advice = [f"Pad the numbers to the same width: {padded}."]
    if executed is not False:
        where = "It is executed, so" if executed else "Where it is executed,"
        repair = f"invoke db.repair --name {padded} --renamed-from {second.filename}"
        advice.append(f"{where} put that name into the ledger as well: {repair}")
    return advice


def duplicates(migrations: Iterable[Migration], pending: set[str]) -> list[tuple[str, str]]:
    """Return pairs of neighbours with the same number, of which one is pending."""
    return [
        (first.filename, second.filename)
        for first, second in pairwise(migrations)
        if first.number == second.number and pending & {first.filename, second.filename}
    ]
