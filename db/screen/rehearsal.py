"""What a rehearsal has found -> lines, for people and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from .. import events as e
from ..errors import counted

_GAP = "  "
_STATEMENT = 60  # columns, where there is no terminal
_ENOUGH = 20
_ROWS = (1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")
_BYTES = (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")
_UNITS_S = (5400, 3600, "h"), (90, 60, "min"), (1, 1, "s")  # from where on, how many, its name
_NOTHING = "nothing new"  # no table that was there, or none with a lock that is not held yet
_UNKNOWN = {"reads": "all of it", "indexes": "all of it", "rewrites": "all of it"}


def statements(done: Sequence[e.Rehearsed], width: int | None) -> Iterator[str]:
    """Yield lines about statements: what each takes and does; those with nothing new, counted."""
    shown = list(rows(done))
    places, _, locks, works = (max((len(row[n]) for row in shown), default=0) for n in range(4))
    taken = 2 + places + len(_GAP) * 3 + locks + works
    if width is not None and width - taken < _ENOUGH:
        yield from _below(shown, places, width)
        return
    room = _STATEMENT if width is None else width - taken
    room = min(room, max((len(row[1]) for row in shown), default=0))
    for place, text, lock, work in shown:
        cut = _cut(text, room).ljust(room)
        line = f"  {place.rjust(places)}{_GAP}{cut}{_GAP}{lock.ljust(locks)}{_GAP}{work}"
        yield line.rstrip()


def _below(shown: Sequence[tuple[str, str, str, str]], places: int, width: int) -> Iterator[str]:
    """Yield the same where names are long: lock and work stand below the statement."""
    for place, text, lock, work in shown:
        if text:
            yield f"  {place.rjust(places)}{_GAP}{_cut(text, width - 2 - places - len(_GAP))}"
        yield f"{' ' * (places + 6)}{_GAP.join(filter(None, (lock, work)))}"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def rows(done: Sequence[e.Rehearsed]) -> Iterator[tuple[str, str, str, str]]:
    """Yield place, statement, lock and work of statements; of many that touch nothing new, one."""
    for touches, group in groupby(done, key=lambda each: bool(each.locks or each.work)):
        together = list(group)
        if not touches and together[1:]:
            first, last = (together[n].location.line for n in (0, -1))
            many = counted(len(together), "statement")
            yield f"{first}-{last}", many, "", _NOTHING
            continue
        for each in together:
            yield from _row(each)


def _row(each: e.Rehearsed) -> Iterator[tuple[str, str, str, str]]:
    """Yield a line for the statement, with its strongest lock, and one for each further table."""
    place, text = str(each.location.line), each.statement
    if not each.locks and not each.work:
        yield place, text, "", _NOTHING
        return
    names = dict.fromkeys([named(lock) for lock in each.locks] + [named(w) for w in each.work])
    for name in names:
        lock = strongest(each.locks, name) or _under(each.work, name)
        yield place, text, f"{lock} {name}" if lock else name, worked(each, name)
        place = text = ""


def strongest(locks: Iterable[e.TableLock], name: str) -> str:
    """Return the strongest, which is the first, lock on a table; or else on its indexes."""
    own = [lock for lock in locks if named(lock) == name]
    return next((lock.mode for lock in sorted(own, key=lambda lock: lock.of_index)), "")


def _under(works: Iterable[e.Work], name: str) -> str:
    """Return the lock that an earlier statement has taken."""
    return next((work.under for work in works if named(work) == name), "")


def worked(each: e.Rehearsed, name: str) -> str:
    """Return what a statement does to a table."""
    works = [amount(work) for work in each.work if named(work) == name]
    return ", ".join(works) or "catalog only"


def amount(work: e.Work) -> str:
    """Return a work as people say it: reads 2.3 GB, up to 12.4 M rows."""
    if work.what == "empties":
        return "empties it"
    if work.what == "changes":
        if work.amount is None:
            return "rows unknown"
        up_to = "up to " if work.most else ""
        return f"{up_to}{_short(work.amount, _ROWS)} row{'' if work.amount == 1 else 's'}"
    of = "reads" if work.what == "reads" else work.what
    return f"{of} {_UNKNOWN[work.what] if work.amount is None else _short(work.amount, _BYTES)}"


def finding(found: e.Finding, width: int | None) -> Iterator[str]:
    """Yield what others would wait for, what lasts, and what to do instead."""
    end = "COMMIT" if found.transaction else "its end"
    what = " and ".join(f"no {word}" for word in found.blocks)
    if found.blocks == ("rows",):
        what = "no writes to these rows"
    line = found.location.line
    yield f"  {named(found)}: {what} from line {line} to {end}: {lasting(found)}"
    if not found.reason.startswith(f"line {line}:"):
        lasts = f"  for the most part: {found.reason}"
        yield lasts if len(lasts) <= (width or 1000) else f"{lasts[: (width or 1000) - 1]}…"
    both = f"  instead: {found.instead}, {found.page}"
    if len(both) <= (width or 1000):
        yield both
    else:
        yield f"  instead: {found.instead}"
        yield f"           {found.page}"


def lasting(found: e.Finding) -> str:
    """Return how long, as a range."""
    if found.low_s is None or found.high_s is None:
        return "how long depends on its size"
    return between(found.low_s, found.high_s)


def between(low_s: float, high_s: float) -> str:
    """Return a range of seconds, each end to one figure: 4-40 s, 2-20 min, 30 s - 5 min."""
    high, unit = _figure(high_s)
    low, other = _figure(low_s)
    if low == "0":
        return f"up to {high} {unit}"
    return f"{low}-{high} {unit}" if unit == other else f"{low} {other} - {high} {unit}"


def _figure(seconds: float) -> tuple[str, str]:
    for from_s, one_s, unit in _UNITS_S:
        if seconds >= from_s:
            return f"{float(f'{seconds / one_s:.0e}'):.0f}", unit
    return f"{float(f'{seconds:.0e}'):g}" if seconds >= 0.05 else "0", "s"


def concluded(event: e.Concluded) -> str:
    """Return the last line."""
    many, all_of = len(event.stopping), len(event.files)
    files = counted(all_of, "file")
    if not many:
        return f"{files} rehearsed: nobody would wait for long."
    return f"{many} of {files} would stop the application."


def named(record: e.TableLock | e.Work | e.Finding) -> str:
    """Return a table's name as people say it."""
    return record.table if record.schema == "public" else f"{record.schema}.{record.table}"


def _short(number: int, units: Sequence[tuple[int, str]]) -> str:
    for size, unit in units:
        if number >= size:
            figures = 1 if number < 100 * size else 0
            return f"{number / size:.{figures}f} {unit}"
    return f"{number} B" if units is _BYTES else str(number)
