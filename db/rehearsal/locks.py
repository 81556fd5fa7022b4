"""A lock's mode -> what waits for it, as PostgreSQL's own table of conflicts has it.

https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES
"""

from __future__ import annotations

import re
from typing import NamedTuple

# From weak to strong, each with what it conflicts with.
_SHARE_UPDATE = ("SHARE UPDATE EXCLUSIVE",)
_CHANGES = (*_SHARE_UPDATE, "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE")
CONFLICTS: dict[str, tuple[str, ...]] = {
    "ACCESS SHARE": ("ACCESS EXCLUSIVE",),
    "ROW SHARE": ("EXCLUSIVE", "ACCESS EXCLUSIVE"),
    "ROW EXCLUSIVE": _CHANGES[1:],
    "SHARE UPDATE EXCLUSIVE": _CHANGES,
    "SHARE": ("ROW EXCLUSIVE", *_SHARE_UPDATE, *_CHANGES[2:]),
    "SHARE ROW EXCLUSIVE": ("ROW EXCLUSIVE", *_CHANGES),
    "EXCLUSIVE": ("ROW SHARE", "ROW EXCLUSIVE", *_CHANGES),
    "ACCESS EXCLUSIVE": ("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", *_CHANGES),
}
_STRENGTH = {mode: n for n, mode in enumerate(CONFLICTS)}


class Blocks(NamedTuple):
    """What of others waits while a lock is held. `changes`: of the schema, VACUUM, index builds."""

    reads: bool
    writes: bool
    changes: bool

    @property
    def words(self) -> tuple[str, ...]:
        """Return what waits, strongest first."""
        return tuple(name for name, waits in self._asdict().items() if waits)


def spelled(mode: str) -> str:
    """Return a mode of pg_locks as SQL spells it: AccessShareLock is ACCESS SHARE."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()


def strength(mode: str) -> int:
    """Return a number that is higher for a stronger mode; -1 for what is none."""
    return _STRENGTH.get(mode, -1)


def blocks(mode: str) -> Blocks:
    """Return what waits for a lock of this mode: SELECT, INSERT and its like, ALTER TABLE."""
    against = CONFLICTS.get(mode, ())
    return Blocks(
        "ACCESS SHARE" in against, "ROW EXCLUSIVE" in against, "SHARE UPDATE EXCLUSIVE" in against
    )
