"""Which pending files are executed ones under another name. No database.

A file that was renamed looks like a new one, and would be executed a second time. It is known by
its text, also where the name in its header was renamed with it, or by its number and its words.
What a half-done file is called now nobody can tell, because its text goes on changing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import FilesError, counted, listed
from ..sql import checksum
from .folder import Migration


class Rename(NamedTuple):
    """An executed file that is gone, and the pending one that is the same.

    `there`: a file of the old name is in the folder, with another text.
    """

    old: str
    new: str
    there: bool = False

    @property
    def repair(self) -> str:
        """Return what to type, so that the ledger has the new name."""
        return f"invoke db.repair --name {self.new} --renamed-from {self.old}"

    @property
    def then(self) -> str:
        """Return what becomes of the file that has the old name now, if there is one."""
        return f"{self.old}, which has another text now, is pending then" if self.there else ""


class Stray(NamedTuple):
    """A half-done file that is not in the folder, and the pending one that may be the same."""

    old: str
    finished: int
    new: str = ""

    @property
    def shown(self) -> str:
        """What stands of it."""
        is_are = "is" if self.finished == 1 else "are"
        done = f" ({counted(self.finished, 'statement')} {is_are} executed)"
        return f"{self.old} is half done{done if self.finished else ''}"

    @property
    def forget(self) -> str:
        """Return what to type if it is wanted no more."""
        return f"invoke db.repair --name {self.old} --forget"

    @property
    def advice(self) -> list[str]:
        """Return what to type, whatever has become of its file."""
        rename = Rename(self.old, self.new or "NEW").repair
        return [
            f"Put {self.old} back: the next run goes on behind what is executed of it;",
            f"or, if {self.new or 'NEW'} is the same file: {rename}",
            f"or, if it is wanted no more, and what it did is undone by hand or may stay: "
            f"{self.forget}",
        ]


def stray(old: str, finished: int, pending: Sequence[Migration]) -> Stray:
    """Return a half-done file without its file, with the pending one that is most like it."""
    names = [migration.filename for migration in pending]
    new = max(names, key=lambda name: _likeness(name, old), default="")
    return Stray(old, finished, new if new and _likeness(new, old) else "")


def refuse_strays(strays: Sequence[Stray]) -> None:
    """Raise `FilesError` if there are any: a pending file might begin anew what is half done."""
    if not strays:
        return
    several = listed([each.old for each in strays]) if strays[1:] else ""
    what = f"{several} are half done, but their files are missing"
    raise FilesError(
        f"{what if several else f'{strays[0].shown}, but its file is missing'}. "
        "Nothing was executed.",
        *strays[0].advice,
    )


def find(
    pending: Sequence[Migration],
    gone: Mapping[str, str | None],
    changed: Mapping[str, str | None],
) -> tuple[Rename, ...]:
    """Return the renames among pending files and the executed ones that are gone.

    `gone`: their names and checksums; `changed`: of those whose names have another text now, so
    that only the text tells. Each is at most one file's old name; where several have the same
    text, those that share words or a number belong together, and then the first ones.
    """
    left, found = {**gone, **changed}, []
    for migration in pending:
        same = [old for old in left if _is(migration, old, left[old], by_name=old in gone)]
        if same:
            old = max(same, key=lambda old: _likeness(migration.filename, old))
            del left[old]
            found.append(Rename(old, migration.filename, old in changed))
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


def _is(migration: Migration, old: str, executed: str | None, *, by_name: bool) -> bool:
    if migration.checksum == executed:
        return True
    likeness = _likeness(migration.filename, old)
    if by_name and likeness == _BOTH:
        return True
    return likeness > 0 and same_text(migration, old, executed)


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
        if rename.there:
            yield f"  ({rename.then})"
    if renames[_SHOWN:]:
        yield f"  and {len(renames) - _SHOWN} more, which this says again then"
