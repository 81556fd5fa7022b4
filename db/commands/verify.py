"""db.verify: the executed files compared with their checksums."""

from __future__ import annotations

from typing import NamedTuple

from ..engine.survey import stand
from ..errors import CheckFailed, listed
from ..events import Note
from ..files.plan import STRAY, Entry, Plan
from ..settings import Settings
from .opened import Screen, reading
from .status import COLUMNS, advice

_WRONG = ("changed", "missing", STRAY)


class Comparison(NamedTuple):
    """The executed files that are not as they were executed, and how many are or cannot be told."""

    wrong: tuple[Entry, ...]
    same: int
    unchecked: int
    plan: Plan


def compare(settings: Settings, screen: Screen) -> Comparison:
    """Return how the files compare with the checksums of the ledger."""
    with reading(settings, screen) as conn:
        found = stand(conn, settings)
    wrong = tuple(e for e in found.plan.entries if e.state in _WRONG)
    unchecked = {r.filename for r in found.executed.values() if r.checksum is None}
    same = set(found.plan.named("executed")) - unchecked
    return Comparison(wrong, len(same), len(unchecked), found.plan)


def verify(settings: Settings, screen: Screen) -> None:
    """Raise `CheckFailed` unless every executed file is on disk as it was executed."""
    wrong, same, unchecked, plan = compare(settings, screen)
    if unchecked:
        screen.event(Note(f"recorded without a checksum, so not compared: {unchecked}"))
    if not wrong:
        screen.event(Note(f"as they were executed: {same}"))
        return
    screen.table(COLUMNS[:2], [(e.filename, e.state) for e in wrong])
    which = [f"{state}: {listed(names)}" for state in _WRONG if (names := plan.named(state))]
    raise CheckFailed(f"Not as they were executed. {'; '.join(which)}.", *advice(plan))
