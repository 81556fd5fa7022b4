"""A new file, with the next number and the team's header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..errors import FilesError
from .folder import DOWN, NAME_LENGTH, Migration, check_order, padding, paths

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
    name = _numbered(taken, snake, shown)
    if len(name) + len(DOWN) > NAME_LENGTH:
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


def _numbered(names: Sequence[str], words: str, shown: str) -> str:
    """Return the name with the next number, of a width at which it sorts, and so runs, last."""
    taken = [Migration(name, Path(name), name, "") for name in names]
    highest = max(taken, key=lambda m: m.number, default=None)
    number = str(highest.number + 1 if highest else 1)
    widths = [len(m.digits) for m in reversed(taken)] or [_DIGITS]
    for width in dict.fromkeys(widths):
        name = f"{number.zfill(width)}_{words}"
        new = Migration(f"{name}.sql", Path(name), name, "")
        if not taken or _is_last(taken, new):
            return name
    last, new = taken[-1], Migration(f"{number}_{words}.sql", Path(number), number, "")
    if len({len(m.digits) for m in taken}) == 1:
        raise FilesError(
            f"{number} would sort before {last.digits}: all numbers of {len(last.digits)} digits "
            "are taken.",
            f"Number on in a new folder (MIGRATIONS_DIR), and keep {shown} as it is.",
        )
    raise FilesError(
        f"{number} would sort before {last.filename}: files run in alphabetical order of their "
        "names. Nothing was written.",
        *padding(max([*taken, new], key=lambda m: len(m.digits)), last, executed=None),
    )


def _is_last(taken: Sequence[Migration], new: Migration) -> bool:
    """Return whether the next run takes a file of that name, and as the last one."""
    try:
        check_order([*taken, new], {new.filename})
    except FilesError:
        return False
    return new.filename > taken[-1].filename
