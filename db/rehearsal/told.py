"""Charges and findings -> the records that people and programs are shown."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ..events import Finding, Rehearsed, TableLock, Work
from . import findings
from .charges import Charge, Part
from .locks import strength
from .measured import Lock, There


def statements(charged: Sequence[Charge], there: There) -> Iterator[Rehearsed]:
    """Yield what each statement would do, under the locks of those before it."""
    held, transaction = set[Lock](), 0
    for charge in charged:
        did = charge.did
        if did.transaction != transaction:
            held, transaction = set(), did.transaction
        held = held - did.released | set(did.locks)
        yield _statement(charge, there, held)


def _statement(charge: Charge, there: There, held: Collection[Lock]) -> Rehearsed:
    did, seconds = charge.did, charge.seconds
    return Rehearsed(
        did.filename,
        did.location,
        did.head,
        not did.outside,
        tuple(dict.fromkeys(_lock(lock, there) for lock in did.locks)),
        tuple(_works(charge, there, held)),
        seconds and seconds.low,
        seconds and seconds.high,
    )


def _lock(lock: Lock, there: There) -> TableLock:
    return TableLock(*there.name(there.top(lock.relation)), lock.mode, lock.of_index)


def _works(charge: Charge, there: There, held: Collection[Lock]) -> Iterator[Work]:
    """Yield the works; those on partitions together, as on the table that they are of."""
    parts: dict[tuple[int, str], list[Part]] = {}
    for part in charge.parts:
        parts.setdefault((there.top(part.table), part.what), []).append(part)
    for (table, what), same in parts.items():
        known = [part.amount for part in same if part.amount is not None]
        amount = sum(known) if len(known) == len(same) else None
        modes = [k.mode for k in held if there.top(k.relation) == table and not k.of_index]
        under = max(modes, key=strength, default="")
        yield Work(*there.name(table), what, amount, any(part.most for part in same), under)


def finding(found: findings.Finding, there: There) -> Finding:
    """Return what others would wait for."""
    did, seconds, heaviest = found.did, found.seconds, found.heaviest.did
    return Finding(
        did.filename,
        did.location,
        *there.name(found.table),
        found.mode,
        found.blocks,
        not did.outside,
        seconds and seconds.low,
        seconds and seconds.high,
        f"line {heaviest.location.line}: {heaviest.head}",
        found.instead,
        f"{findings.PAGE}#{found.anchor}",
    )
