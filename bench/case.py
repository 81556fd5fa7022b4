"""What a case of the benchmark is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .results import Results
    from .session import Bench

LOCAL, AFAR = "Local", "Over a distance, large files, a busy table"


@dataclass(frozen=True)
class Program:
    """What takes part: its name is that of its row, unless a case has rows of its own."""

    name: str
    note: str = ""
    packages: str = ""  # pypi, npm or debian, and the names: installed into bench/.peers


@dataclass
class Sample:
    """One round of one row: a figure for each column, or an error."""

    figures: dict[str, float]
    error: str = ""


Samples: TypeAlias = dict[str, list[Sample]]  # row -> its rounds, oldest first


@dataclass(frozen=True)
class Column:
    """How a figure is shown: its unit stands in the heading, `digits` are those behind the dot."""

    heading: str
    digits: int = 2
    most: bool = False  # the largest of the rounds is shown, not the median and the spread


@dataclass(frozen=True)
class Target:
    """A promise: `figure` is at most `limit`."""

    case: str
    text: str
    figure: float
    limit: float
    shown: str = ""

    @property
    def met(self) -> bool:
        return round(self.figure, 2) <= self.limit  # as it is shown


def _none(_: Results) -> Sequence[Target]:
    return ()


@dataclass(frozen=True)
class Case:
    """What is measured, and how it is told."""

    name: str  # --only NAME
    title: str
    measure: Callable[[Bench, Sequence[Program]], Samples]  # of those that could be installed
    programs: Sequence[Program]
    columns: Mapping[str, Column] = field(default_factory=dict)
    targets: Callable[[Results], Sequence[Target]] = _none
    about: str = ""  # above its table: what is done, in a paragraph
    profile: str = ""  # where the time goes; shown when a target is not met
    group: str = ""  # LOCAL or AFAR: a column of that table of seconds, none of its own
    memory: bool = False  # also a column of the table of peak memory
    panel: bool = False  # also in the picture, by its seconds
