"""What a run has sent and what it has reported, held against what the ledger has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..events import Applied, Event, Note
from ..files.plan import SCHEMA, Executed
from .recovery import Recovery


class Account:
    """Of one run. `executed`: what it has executed so far. `late`: what is out of order."""

    def __init__(self, recovery: Recovery) -> None:
        self.executed: list[str] = []
        self.late: frozenset[str] = frozenset()
        self._recovery = recovery
        self._unanswered: dict[str, None] = {}  # in order
        self._authors: set[str] = set()  # as which the sessions of this run sign
        self._reported: set[str] = set()

    @property
    def under_way(self) -> tuple[str, ...]:
        """Return what was sent and is not answered yet, in order."""
        return tuple(self._unanswered)

    def sent(self, filename: str, author: str) -> None:
        """Note that a file is under way, signed by this author."""
        self._unanswered[filename] = None
        self._authors.add(author)

    def clear(self) -> None:
        """Note that nothing is under way any more."""
        self._unanswered.clear()

    def done(self, filename: str, duration_ms: int) -> Iterator[Event]:
        """Report a file as executed."""
        self._unanswered.pop(filename, None)
        if filename not in self._reported:  # otherwise it was lost, and may be lost again
            self._recovery.progress()
        self._reported.add(filename)
        self.executed.append(filename)
        yield Applied(filename, duration_ms, filename in self.late)

    def confirm(self, executed: Mapping[str, Executed]) -> Iterator[Event]:
        """Hold what was reported, and what was under way, against what the ledger has by now.

        A COMMIT may have taken effect though its answer was lost; and one that was not waited for
        may have been lost with the server.
        """
        for filename in [n for n in self.executed if not self.is_ours(n, executed)]:
            self.executed.remove(filename)
            again = "was executed by another run" if self.is_done(filename, executed) else "runs"
            message = f"was lost when the server went down, and {again} again"
            yield Note(message, "warning", filename=filename)
        for filename in [n for n in self.under_way if self.is_done(n, executed)]:
            if self.is_ours(filename, executed):
                row = executed.get(filename)
                yield from self.done(filename, (row and row.duration_ms) or 0)
            else:
                yield Note("was executed by another run meanwhile", filename=filename)
        self.clear()

    def elsewhere(self, filename: str, gone: set[str]) -> Event:
        """Return who else has executed what failed here. `gone`: all that needs no run any more."""
        if SCHEMA in self.executed:  # a dumped one ends with the names of what is in it
            number = len(gone - set(self.executed))
            return Note(f"{SCHEMA} has recorded as executed: {number} of the files")
        return Note("was executed by another run meanwhile", filename=filename)

    def is_done(self, filename: str, executed: Mapping[str, Executed]) -> bool:
        """Return whether a file needs no run any more."""
        return filename in executed

    def is_ours(self, filename: str, executed: Mapping[str, Executed]) -> bool:
        """Return whether it is done, and one of this run's sessions has done it."""
        row = executed.get(filename)
        return row is not None and row.executed_by in self._authors
