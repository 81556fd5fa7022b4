"""What others have left on the server, removed: killed processes, old templates, kept databases.

A clone's name holds its process's own word, and the process holds the lock of that word for as long
as it is connected. So a word that can be locked is that of a dead one.
"""

from __future__ import annotations

from ..server.databases import lock, ours_named, unlock
from ..server.ours import Connection
from . import template
from .template import NEW, TEMPLATE, drop, is_old

CLONE = "migrations_test_"  # and the process's word, and a number
KEPT = "migrations_kept_"  # and the project, the run, the process's word, and a number
_TEMPLATES = 20  # of 10 MB


def owner_of(name: str) -> str:
    """Return the word of the process whose clone has this name."""
    return name.removeprefix(CLONE).split("_")[0]


def remove(conn: Connection, word: str, used: str) -> None:
    """Remove the clones of dead processes, half made templates, and what is a week old.

    Of more templates than a day's work makes, the oldest go as well: they may be in memory. `word`
    is this process's own, and `used` the template that it uses.
    """
    _remove_clones(conn, word)
    templates = ours_named(conn, TEMPLATE)
    recent = {name for name, _ in templates[-_TEMPLATES:]}
    for name, comment in templates:
        if name != used and (name not in recent or name.endswith(NEW) or is_old(comment)):
            template.remove(conn, name)
    for name, comment in ours_named(conn, KEPT):
        if is_old(comment):
            drop(conn, name)


def remove_own(conn: Connection, word: str) -> None:
    """Remove all clones of the process with this word."""
    for name, _ in ours_named(conn, f"{CLONE}{word}_"):
        drop(conn, name)


def remove_kept(conn: Connection, project: str, run: str) -> None:
    """Remove what an earlier run of this project has kept."""
    for name, _ in ours_named(conn, f"{KEPT}{project}_"):
        if not name.startswith(f"{KEPT}{project}_{run}_"):
            drop(conn, name)


def _remove_clones(conn: Connection, word: str) -> None:
    for other in {owner_of(name) for name, _ in ours_named(conn, CLONE)}:
        if other != word and lock(conn, CLONE + other):
            try:
                remove_own(conn, other)
            finally:
                unlock(conn, CLONE + other)
