"""Everything that can go wrong, as one family. Each error says what to do next.

    MigrationsError
    ├── SettingsError           the environment, .env or the command line      exit 2
    ├── ConnectionFailed        no connection, or not to a server we can use   exit 2
    ├── FilesError              the folder or a file, before anything ran      exit 2
    │   ├── ScriptError         ... at one place in one file                   exit 2
    │   ├── Refused             ... several files, each with its reason        exit 2
    │   └── FileChanged         ... is not what it was, while it is read       exit 2
    ├── LedgerError             the database is not in a state we can go on    exit 2
    ├── StatementFailed         the server refused a statement                 exit 1
    ├── ConnectionLost          the connection broke and did not come back     exit 1
    ├── FleetFailed             some of many targets failed                    exit 1
    ├── CheckFailed             a check found something to report              exit 3
    └── Interrupted             SIGINT or SIGTERM                              exit 130, 143

No message, repr or attribute ever holds a password.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, ClassVar, NamedTuple

SHOWN = 10  # of many of a kind; the others are counted


class Location(NamedTuple):
    """A place in a file; `line` and `column` are 1-based, columns count characters."""

    path: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


class Diagnostic(NamedTuple):
    """What the server said, in the fields of its error and notice messages.

    https://www.postgresql.org/docs/current/protocol-error-fields.html
    """

    severity: str
    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""
    context: str = ""
    position: int | None = None  # 1-based, in characters, of the statement
    internal_query: str = ""
    internal_position: int | None = None


class MigrationsError(Exception):
    """The base of the family.

    `message` is the fact, `advice` what to do about it, one line each; `location` and `excerpt`
    (source lines with a caret) are there when the fact has a place in a file; `filename` is that
    file's name, where one is to blame. `parts` are the errors that this one sums up.
    """

    exit_code: ClassVar[int] = 1
    parts: tuple[MigrationsError, ...] = ()

    def __init__(
        self,
        message: str,
        *advice: str,
        location: Location | None = None,
        excerpt: str = "",
        filename: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.location = location
        self.excerpt = excerpt
        self.filename = filename or (PurePath(location.path).name if location else "")

    @property
    def details(self) -> tuple[str, ...]:
        """Return the lines between the excerpt and the advice."""
        return ()

    def __str__(self) -> str:
        return "\n".join(filter(None, (_placed(self), self.excerpt, *self.details, *self.advice)))


class SettingsError(MigrationsError):
    """A setting is missing or cannot be understood."""

    exit_code = 2


class Declined(MigrationsError):
    """A person has answered no; nothing was changed."""

    exit_code = 2


class ConnectionFailed(MigrationsError):
    """The server cannot be reached, refuses us, or is not one that can be migrated."""

    exit_code = 2


class FilesError(MigrationsError):
    """The migrations folder or a file in it is not as it must be.

    Nothing ran, unless the message says so: a file may become another one while the run goes on.
    """

    exit_code = 2


class ScriptError(FilesError):
    """A place in a file that cannot be run as it is."""


class Refused(FilesError):
    """Several files cannot be run as they are; nothing ran. `refusals`: the reason of each."""

    def __init__(self, refusals: Sequence[FilesError], state: str, *advice: str) -> None:
        many = counted(len(refusals), "file")
        super().__init__(f"{many} cannot be run as they are. {state}", *advice)
        self.refusals = self.parts = tuple(refusals)

    @property
    def details(self) -> tuple[str, ...]:
        """Return the first ten reasons, without what to do about them."""
        more = len(self.refusals) - SHOWN
        others = f"... and {more} more" if more > 0 else ""
        return (*map(_placed, self.refusals[:SHOWN]), *filter(None, [others]))


def refuse(refusals: Sequence[FilesError], state: str, more: str) -> None:
    """Raise what says why files are refused, all at once, if there are any.

    `state` is what became of the run, `more` the command that shows all of them.
    """
    if not refusals:
        return
    if len(refusals) == 1:
        (only,) = refusals
        if state not in only.message:
            only.advice = (state, *only.advice)
        raise only
    wanted: dict[tuple[str, ...], int] = {}
    for each in refusals:
        wanted[each.advice] = wanted.get(each.advice, 0) + 1
    advice = [f"In {n}: {' '.join(lines)}" for lines, n in wanted.items() if lines][:SHOWN]
    raise Refused(refusals, state, *advice, f"All of them: invoke {more}")


class FileChanged(FilesError):
    """A file is another one than a moment ago: `shown` was cut off, written to or taken away."""

    def __init__(self, shown: str, became: str) -> None:
        super().__init__(
            f"{shown} {became}.", "Leave it as it is for so long, and type the same command again."
        )
        self.shown = shown


class LedgerError(MigrationsError):
    """The database or its ledger is not in a state that can be gone on from.

    The message says what stands: what was committed before stays.
    """

    exit_code = 2


class StatementFailed(MigrationsError):
    """The server refused a statement. `outcome` says what state the database is in now."""

    def __init__(
        self,
        diagnostic: Diagnostic,
        *advice: str,
        filename: str,
        outcome: str,
        notices: tuple[Diagnostic, ...] = (),
        location: Location | None = None,
        excerpt: str = "",
    ) -> None:
        code = f" ({diagnostic.sqlstate})" if diagnostic.sqlstate else ""
        message = f"{diagnostic.message}{code}"
        super().__init__(
            message, outcome, *advice, location=location, excerpt=excerpt, filename=filename
        )
        self.diagnostic = diagnostic
        self.outcome = outcome
        self.notices = notices

    @property
    def details(self) -> tuple[str, ...]:
        """Return what the server said besides its message, and what it had said before."""
        said = self.diagnostic
        internal = said.internal_query.strip()
        labelled = {
            "detail": said.detail,
            "hint": said.hint,
            "query": internal,
            "context": said.context,
        }
        lines = [_indented(label, text) for label, text in labelled.items() if text]
        lines += [_indented(n.severity.lower(), n.message) for n in self.notices]
        return tuple(lines)


class ConnectionLost(MigrationsError):
    """The connection broke in the middle of a run and could not be made again in time."""


class FleetFailed(MigrationsError):
    """Some of many targets failed, or were not begun because of that.

    `failures`: for each error the names of the targets that failed with it. `outcomes`: what
    became of each target, as `db.events.Target`.
    """

    def __init__(
        self,
        message: str,
        *advice: str,
        failures: Sequence[tuple[MigrationsError, Sequence[str]]],
        outcomes: Sequence[Any] = (),
    ) -> None:
        super().__init__(message, *advice)
        self.failures = tuple(failures)
        self.outcomes = tuple(outcomes)
        self.parts = tuple(error for error, _ in failures)

    @property
    def details(self) -> tuple[str, ...]:
        """Return each error, whole, below the names of the targets that failed with it."""
        return tuple(line for error, names in self.failures for line in _failed(error, names))


class CheckFailed(MigrationsError):
    """A check found something that is not as it should be."""

    exit_code = 3


class Interrupted(MigrationsError):
    """The run was stopped by a signal, after the running statement was cancelled."""

    exit_code = 130

    def __init__(self, message: str, *advice: str, signal_number: int = 2) -> None:
        super().__init__(message, *advice)
        self.exit_code = 128 + signal_number  # type: ignore[misc]  # the shell's own convention


def _failed(error: MigrationsError, names: Sequence[str]) -> list[str]:
    said = filter(None, (_placed(error), error.excerpt, *error.details, *error.advice))
    return [
        f"{counted(len(names), 'target')}: {listed(names, SHOWN)}",
        *("  " + line for s in said for line in s.split("\n")),
    ]


def _placed(error: MigrationsError) -> str:
    return f"{error.location}: {error.message}" if error.location else error.message


def listed(names: Sequence[str], most: int = SHOWN) -> str:
    """Return the names as a sentence has them: the first ones, and how many more there are."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def counted(number: int, what: str) -> str:
    """Return how many there are: 1 batch, 2 batches, 12,000 rows."""
    ending = "" if number == 1 else "es" if what.endswith("ch") else "s"
    return f"{number:,} {what}{ending}"


def pip(extra: str) -> str:
    """Return what installs an extra of this package: from its repository, or in another project."""
    package = "." if __package__ == "db" else "invoke-pg-migrations"
    return f"pip install '{package}[{extra}]'"


def one_line(text: str) -> str:
    """Return a message of libpq, the server or a program of it on one line.

    It needs no search for the password, which could be any word of it: libpq quotes values of
    other parameters only, since what it could misread was refused with the settings.
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    ended = [line if line.endswith((*".?!:;,",)) else f"{line}." for line in lines[:-1]]
    return " ".join([*ended, *lines[-1:]])


def _indented(label: str, text: str) -> str:
    first, *rest = text.splitlines() or [""]  # a notice may have no text
    return "\n".join([f"  {label}: {first}".rstrip(), *(f"    {line}" for line in rest)])
