"""db.verify: the executed files compared with their checksums."""

from __future__ import annotations

from ..engine.survey import stand
from ..errors import (
    CheckFailed,
)
from ..events import Note
from ..settings import Settings
from .opened import Screen, reading
from .status import COLUMNS, advice


def verify(settings: Settings, screen: Screen) -> None:
    """Raise `CheckFailed` unless every executed file is on disk as it was executed."""
    with reading(settings, screen) as conn:
        found = stand(conn, settings)
    wrong = [e for e in found.plan.entries if e.state in ("changed", "missing")]
    unchecked = [r.filename for r in found.executed.values() if r.checksum is None]
    if unchecked:
        screen.event(Note(f"recorded without a checksum, so not compared: {len(unchecked)}"))
    if not wrong:
        compared = set(found.plan.named("executed")) - set(unchecked)
        screen.event(Note(f"as they were executed: {len(compared)}"))
        return
    screen.table(COLUMNS[:2], [(e.filename, e.state) for e in wrong])
    which = [
        f"{state}: {', '.join(names)}"
        for state in ("changed", "missing")
        if (names := found.plan.named(state))
    ]
    raise CheckFailed(f"Not as they were executed. {'; '.join(which)}.", *advice(found.plan))
