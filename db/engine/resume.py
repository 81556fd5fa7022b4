"""Progress rows and what the catalog has -> what to do next with a unit. Pure: no database.

A unit that runs outside a transaction is announced in a row without finished_at, an intent. If the
run is cut off then, whoever comes next has this row and the catalog, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from ..errors import ScriptError
from ..files.plan import Progress
from ..sql import kinds
from ..sql.script import Script, Unit

CREATE, DROP, REINDEX, DETACH = (
    f"{verb} CONCURRENTLY"
    for verb in ("CREATE INDEX", "DROP INDEX", "REINDEX", "ALTER TABLE DETACH PARTITION")
)
# Doing these once more does no harm.
_REPEATABLE = ("VACUUM", "CLUSTER", "REINDEX", "REPACK", "ALTER SYSTEM", "DISCARD", "CHECKPOINT")
# Code of somebody's own: it may commit as it goes, and what it waits for is not known beforehand.
_BLOCKS = ("DO", "CALL")
# ... and this where a file says that it must be outside a transaction: by a connection of its own.
_FUNCTIONS = ("SELECT", "WITH", "VALUES", "EXECUTE")
# Nobody queues behind these: they take no lock that reads or writes of a table wait for.
_WEAK = frozenset(
    {"ALTER SYSTEM", "CREATE DATABASE", "DROP DATABASE", "ALTER DATABASE SET TABLESPACE",
     "CREATE TABLESPACE", "DROP TABLESPACE", "DISCARD ALL", "CHECKPOINT", "COMMIT PREPARED",
     "ROLLBACK PREPARED"}
)  # fmt: skip


class Row(NamedTuple):
    """A unit's row. `pid`, `target` and `session` are None where an earlier release wrote it.

    `rows` and `batches`: of a statement that is repeated; None for any other.
    `target`: what the names of an intent meant when it was announced. `session`: what the file had
    set for its session when the unit was finished.
    """

    unit: int
    checksum: str
    finished: bool
    run_by: str
    pid: int | None = None
    target: Mapping[str, Any] | None = None
    session: Mapping[str, str] | None = None
    rows: int | None = None
    batches: int | None = None


class Index(NamedTuple):
    """What has the name of an index, as the catalog has it; `name` is qualified and quoted."""

    oid: int
    name: str
    valid: bool
    ours: bool  # it is an index, and on the table that the statement names
    building: bool
    definition: str


class Facts(NamedTuple):
    """What a statement is about. `relation`: the table or index that it names; None: not there.

    `indexes`: what has the name that it builds, or what an earlier REINDEX has left INVALID.
    `attached`: it is a partition. `finalize`: what ends a DETACH … CONCURRENTLY that was cut off.
    """

    relation: int | None = None
    name: str | None = None
    gone: bool = False  # `relation` is a number that no relation has any more
    indexes: tuple[Index, ...] = ()
    attached: bool = False
    finalize: str = ""


class Left(Enum):
    """What a statement outside a transaction has left when it has failed."""

    NOTHING = auto()  # its transaction was rolled back, and it was the only one
    KNOWN = auto()  # what the catalog tells, or what is done again without harm
    ELSEWHERE = auto()  # nothing here; what it did by a connection of its own, nobody can tell
    SOMETHING = auto()  # what it had committed: how far that is, only a person can tell


class Step(Enum):
    """What to do with a unit that runs outside a transaction."""

    SKIP = auto()  # it is finished
    FINISH = auto()  # it took effect, though nobody has written so
    WAIT = auto()  # another session builds that index
    CLEAN = auto()  # drop what is INVALID, and look again
    RUN = auto()
    ASK = auto()  # nobody but a person can tell


def next_step(kind: str, row: Row | None, facts: Facts) -> Step:
    """Return what to do next. `row` is None, finished, or the intent of a run that is no more."""
    if row is not None and row.finished:
        return Step.SKIP
    if row is not None and _took_effect(kind, row, facts):
        return Step.FINISH
    if kind in (CREATE, REINDEX):
        invalid = [index for index in facts.indexes if index.ours and not index.valid]
        if any(index.building for index in invalid):
            return Step.WAIT
        return Step.CLEAN if invalid else Step.RUN
    if row is None or settles(kind):
        return Step.RUN
    return Step.ASK


def settles(kind: str) -> bool:
    """Return whether a run finds out by itself what is left of a statement, and goes on there."""
    return kind in (CREATE, DROP, REINDEX, DETACH) or kind.startswith(_REPEATABLE)


def left(kind: str, commits: int | None) -> Left:
    """Return what a statement has left that failed after so many commits of its own.

    None: they could not be counted.
    """
    if settles(kind):
        return Left.KNOWN
    if commits or (commits is None and kind in _BLOCKS):
        return Left.SOMETHING
    return Left.ELSEWHERE if kind in _FUNCTIONS else Left.NOTHING


def _took_effect(kind: str, intent: Row, facts: Facts) -> bool:
    """Return whether an announced statement has done its work."""
    if kind == CREATE:
        # An index that had the name before is what IF NOT EXISTS has passed over, and will again.
        before = (intent.target or {}).get("existed")
        return before is None and any(index.ours and index.valid for index in facts.indexes)
    if kind == DROP:
        named = facts.relation is not None
        return facts.gone if intent.target is not None else not named
    if kind == DETACH:
        return (intent.target or {}).get("existed") is not None and not facts.attached
    return False


def strong(kind: str, sql: bytes) -> bool:
    """Return whether a statement may wait for a lock while the application queues behind it."""
    if kind == "VACUUM":
        return kinds.rewrites(sql)
    return not (kind.endswith("CONCURRENTLY") or kind in _WEAK)


def cancelled(script: Script, progress: Sequence[Progress], unit: int) -> str:
    """Return what became of a unit that was under way when the run was interrupted."""
    row = next((row for row in progress if row.unit == unit and row.batches is None), None)
    if row is None:
        return "The running statement was cancelled and rolled back."
    if row.finished:
        return "The running statement was executed."
    (found,) = list(script.units())[unit].statements
    then = "what it had committed stays, and the next run asks whether it took effect."
    if settles(found.kind):
        then = "the next run looks what it has left, and goes on there."
    return f"The running statement was cancelled. It ran outside a transaction: {then}"


def limited(kind: str, sql: bytes) -> bool:
    """Return whether an attempt is given our lock_timeout: not what it would cut off half-way."""
    return strong(kind, sql) and kind not in _BLOCKS + _FUNCTIONS


def checksum(script: Script, unit: Unit) -> str:
    """Return the SHA-256 of a unit's statements; what lies between them does not count.

    That a statement is repeated does, and how does not.
    """
    text = b"\0".join(script.sql(s) for s in unit.statements).replace(b"\r\n", b"\n")
    return hashlib.sha256(b"repeat\0" + text if unit.repeat else text).hexdigest()


def check(script: Script, progress: Sequence[Progress]) -> None:
    """Raise `ScriptError` if a part of an unfinished file was edited that has run, or may have."""
    units = [] if script.directives.transaction else list(script.units()) if progress else []
    for row in progress:
        if row.unit < len(units) and checksum(script, units[row.unit]) == row.checksum:
            continue
        if row.batches is not None and not row.finished:  # its batches are whole: none is in doubt
            continue
        offset = units[row.unit].statements[0].start if row.unit < len(units) else 0
        number = f"statement {row.unit + 1}"
        if row.finished:
            message = f"{number} is executed already, and was edited since."
            back = "Put the executed text back, and the change behind it;"
        else:
            message = f"{number} was running when a run was cut off, and was edited since."
            back = "Put its text back: the next run looks whether it took effect, and says so;"
        raise ScriptError(
            f"{message} Nothing was executed.",
            back,
            f"or, to run the file from its first statement: "
            f"invoke db.repair --name {row.filename} --forget",
            location=script.location(offset),
            excerpt=script.excerpt(offset),
        )
