"""What became of many targets: a record each, and their errors by kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..errors import Interrupted, MigrationsError, StatementFailed, counted
from ..events import Target
from .roster import Member

_NUMBER = r"(?<![^\W_])\d[\d.,:-]*"
_QUOTED = r"""["“„«][^"“”»]*["“”»]|'[^']*'"""


def record(name: str, executed: Sequence[str], ms: int, error: MigrationsError | None) -> Target:
    """Return what became of a target."""
    if error is None:
        state = "executed" if executed else "nothing to do"
        return Target(name, state, tuple(executed), ms)
    state = "interrupted" if isinstance(error, Interrupted) else "failed"
    made = Target(name, state, tuple(executed), ms, type(error).__name__, location=error.location)
    if isinstance(error, StatementFailed):
        said = error.diagnostic
        return made._replace(sqlstate=said.sqlstate, message=said.message, outcome=error.outcome)
    return made._replace(message=error.message, outcome=" ".join(error.advice))


def kind(member: Member, error: MigrationsError) -> tuple[object, ...]:
    """Return what tells one error from another, whichever target has it.

    Its own names, and numbers, are left out of the message; so is what is quoted, which may be a
    value, but not where it names what a row has violated.
    """
    names = {member.name, member.target.schema, member.target.parameters.get("dbname", "")} - {""}
    own = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    said = re.sub(_NUMBER, "…", re.sub(rf"(?<![^\W_])(?:{own})(?![^\W_])", "…", error.message))
    if not isinstance(error, StatementFailed):
        return (type(error), said)
    sqlstate = error.diagnostic.sqlstate
    if not sqlstate.startswith("23"):
        said = re.sub(_QUOTED, "…", said)
    return (error.location, sqlstate, error.filename, said)


def grouped(
    failures: Iterable[tuple[Member, MigrationsError]],
) -> list[tuple[MigrationsError, list[str]]]:
    """Return each kind of error, by its first one, with the names; what most have comes first."""
    found: dict[tuple[object, ...], tuple[MigrationsError, list[str]]] = {}
    for member, error in failures:
        found.setdefault(kind(member, error), (error, []))[1].append(member.name)
    return sorted(found.values(), key=lambda pair: -len(pair[1]))


def summary(records: Iterable[Target], total: int) -> str:
    """Return how many of them are done, and what became of the others."""
    states = [each.state for each in records]
    done = states.count("executed") + states.count("nothing to do")
    words = [f"{done:,} of {counted(total, 'target')} {'is' if total == 1 else 'are'} done"]
    for state, said in (("failed", "failed"), ("interrupted", "interrupted")):
        if state in states:
            words.append(f"{states.count(state):,} {said}")
    left = total - len(states) + states.count("not begun")
    if left:
        words.append(f"{left:,} not begun")
    return ", ".join(words)
