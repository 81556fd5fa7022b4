"""Which pending files are executed ones under another name. No database.

A file that was renamed looks like a new one, and would be executed a second time. It is known by
its text, also where the name in its header was renamed with it, or by its number and its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import FilesError
from ..sql import checksum
from .folder import Migration


class Rename(NamedTuple):
    """An executed file that is gone, and the pending one that is the same."""

    old: str
    new: str

    @property
    def repair(self) -> str:
        """Return what to type, so that the ledger has the new name."""
        return f"invoke db.repair --name {self.new} --renamed-from {self.old}"


def find(pending: Sequence[Migration], gone: Mapping[str, str | None]) -> tuple[Rename, ...]:
    """Return the renames among pending files and the executed ones that are gone.

    `gone`: their names and checksums. Each is at most one file's old name; where several have the
    same text, those that share words or a number belong together, and then the first ones.
    """
    left, found = dict(gone), []
    for migration in pending:
        same = [old for old in left if _is(migration, old, left[old])]
        if same:
            old = max(same, key=lambda old: _likeness(migration.filename, old))
            del left[old]
            found.append(Rename(old, migration.filename))
    return tuple(found)


def same_text(migration: Migration, old: str, executed: str | None) -> bool:
    """Return whether this text was executed, but for the name in it: `old` and its checksum."""
    if executed is None or migration.checksum == executed:
        return executed is not None
    here, there = (_stem(name).encode() for name in (migration.filename, old))
    try:
        text = migration.path.read_bytes()
    except OSError:
        return False
    if here not in text:
        return False
    was = text.replace(here, there, 1)  # in the header
    return checksum.of([was], migration.shown) == executed


def _is(migration: Migration, old: str, executed: str | None) -> bool:
    if migration.checksum == executed:
        return True
    likeness = _likeness(migration.filename, old)
    return likeness == _BOTH or (likeness > 0 and same_text(migration, old, executed))


_BOTH = 2


def _likeness(new: str, old: str) -> int:
    """Return how much two names share: the number, whatever its width, and the words."""
    (number, words), (other, others) = _parts(new), _parts(old)
    return (number == other) + (words == others)


def _parts(name: str) -> tuple[str, str]:
    number, _, words = name.partition("_")
    return number.lstrip("0"), words


def _stem(name: str) -> str:
    return name.removesuffix(".sql")


_SHOWN = 10


def refuse(renames: Sequence[Rename]) -> None:
    """Raise `FilesError` if there are renames: such a file would be executed a second time."""
    if not renames:
        return
    several = len(renames) > 1
    what = (
        f"{len(renames)} pending files are executed ones under another name"
        if several
        else f"{renames[0].new} is {renames[0].old} under another name, which is executed"
    )
    it, them = ("them", "their names") if several else ("it", "its name")
    raise FilesError(
        f"{what}. Nothing was executed.",
        f"Give {it} the old name back, or put {them} into the ledger:",
        *lines(renames),
        "If it is another file, which has to run: give it words and a text of its own.",
    )


def lines(renames: Sequence[Rename]) -> Iterator[str]:
    """Yield what to type for each, for the first ten of them, and how many more there are."""
    for rename in renames[:_SHOWN]:
        yield f"  {rename.repair}"
    if renames[_SHOWN:]:
        yield f"  and {len(renames) - _SHOWN} more, which this says again then"
