"""A new file, with the next number and the team's header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..errors import FilesError
from .folder import NAME_LENGTH, paths

_DIGITS = 3  # of a number, where there are no neighbours
_HEADER = """\
-- Migration: {name}
-- Created at: {today}
-- Description: {description}
"""
_SKELETON = """
-- One transaction, with no BEGIN and COMMIT of its own. For example:
-- ALTER TABLE campaigns ADD COLUMN IF NOT EXISTS archived_at timestamptz;
"""
_NO_TRANSACTION = """\
-- migrate: no-transaction
-- squawk-disable-assume-in-transaction

-- One statement after the other, each kept when it is done. For example:
-- CREATE INDEX CONCURRENTLY IF NOT EXISTS campaigns_name_idx ON campaigns (name);
"""


def write(folder: Path, shown: str, description: str, *, transaction: bool = True) -> str:
    """Write a new migration, numbered after the last one, and return its path as people type it.

    Raise `FilesError` if the description cannot be a name, or the file cannot be written.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", description.strip())
    snake = re.sub(r"[\s_-]+", "_", words).strip("_").lower()
    strange = re.search(r"[^a-z0-9_]", snake)
    if strange or not snake:
        what = f"{strange[0]!r} cannot be in" if strange else "There is nothing to make"
        raise FilesError(
            f"{what} the name of a migration.",
            'Letters, digits and spaces: invoke db.new "add index to campaigns"',
        )
    taken = [path.name for path in paths(folder, shown)]
    name = f"{_next(taken, shown)}_{snake}"
    if len(name) + len(".down.sql") > NAME_LENGTH:
        raise FilesError(f"The name is longer than {NAME_LENGTH} characters: {name[:40]}…")
    said = " ".join(description.split())
    said = said[:1].upper() + said[1:].removesuffix(".") + "."
    header = _HEADER.format(name=name, today=date.today(), description=said)
    try:
        with (folder / f"{name}.sql").open("x", encoding="utf-8") as file:
            file.write(header + (_SKELETON if transaction else _NO_TRANSACTION))
    except OSError as error:
        raise FilesError(f"{shown}/{name}.sql cannot be written: {error.strerror}.") from None
    return f"{shown}/{name}.sql"


def _next(names: Sequence[str], shown: str) -> str:
    digits = [re.match(r"\d*", name)[0] for name in names]  # type: ignore[index]
    last = max(digits, key=int, default="")
    width = max(map(len, digits), default=_DIGITS)
    number = str(int(last or 0) + 1).zfill(width)
    if len(number) > width:
        raise FilesError(
            f"{number} would sort before {last}: all numbers of {width} digits are taken.",
            f"Number on in a new folder (MIGRATIONS_DIR), and keep {shown} as it is.",
        )
    return number
