"""Files are applied: few and many, again, one more, over a distance, and large ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .. import generate
from ..case import AFAR, LOCAL, Case, Program, Sample, Samples, Target
from ..peers import FLOOR, ONE_STRING, OURS, PEERS, PSQL, REFERENCES, Peer
from ..results import Results
from ..session import Bench

_TIMEOUT_S = {"copy": 25, "insert": 60}  # 120 otherwise
_BEHIND = ("Alembic", "node-pg-migrate", "graphile-migrate", "knex", "sqitch")


@dataclass(frozen=True)
class Work:
    """What the programs are given: `n` files, or one of `n` megabytes; so many rounds of it."""

    kind: str  # apply, again, more, copy, insert
    n: int
    rounds: int
    round_trip_ms: int = 0

    def files(self) -> generate.Files:
        if self.kind in ("copy", "insert"):
            return generate.load(self.n, copy=self.kind == "copy")
        return generate.files(self.n)


class Measurement:
    """One case of these, under way."""

    def __init__(self, bench: Bench, name: str, work: Work) -> None:
        self.bench = bench
        self.name = name
        self.work = work
        self.port = 0
        self.made: dict[int, int] = {}  # files given -> objects made, by whoever was first

    def measure(self, peers: Sequence[Peer]) -> Samples:
        for peer in peers:
            warm_up(self.bench, peer)
        with self.bench.link(self.work.round_trip_ms) as self.port:
            rows = {peer.name: self.row(peer) for peer in peers}
            return self.bench.turns(self.name, self.work.rounds, rows)

    def row(self, peer: Peer) -> Callable[[int], Sample]:
        """Lay the files out, and run them where the case is about a second run."""
        bench, work = self.bench, self.work
        folder = bench.folder / f"{work.kind}-{work.n}" / peer.name
        peer.lay(folder, work.files())
        shared = ""
        if work.kind in ("again", "more"):
            shared = bench.cluster.create_database()
            bench.launch(peer.words(bench.psql, bench.url(shared)), folder, bench.url(shared))

        def once(turn: int) -> Sample:
            wanted = work.n
            if work.kind == "more":
                wanted += turn + 1
                peer.lay(folder, generate.files(wanted))
            database = shared or bench.cluster.create_database()
            bench.checkpoint()
            url, limit = bench.url(database, self.port), _TIMEOUT_S.get(work.kind, 120)
            sample = bench.launch(peer.words(bench.psql, url), folder, url, timeout_s=limit)
            if not sample.error and peer.name != FLOOR:  # a tool that does nothing is not fast
                loads = work.kind in ("copy", "insert")
                query = generate.COUNT_ROWS if loads else generate.COUNT_OBJECTS
                count = bench.count(database, query)
                expected = self.made.setdefault(wanted, count)
                sample.error = "" if count == expected else f"made {count} of {expected}"
            return sample

        return once


def warm_up(bench: Bench, peer: Peer) -> None:
    """Run a program once, in a session, before it is measured: the file cache and the bytecode."""
    if peer.name in bench.warm:
        return
    bench.warm.add(peer.name)
    folder = bench.folder / "warm-up" / peer.name
    peer.lay(folder, generate.files(1))
    url = bench.url(bench.cluster.create_database())
    bench.launch(peer.words(bench.psql, url), folder, url)


def _measure(name: str, work: Work, bench: Bench, present: Sequence[Program]) -> Samples:
    peers = [program for program in present if isinstance(program, Peer)]
    return Measurement(bench, name, work).measure(peers)


def case(
    name: str,
    title: str,
    work: Work,
    *,
    group: str = LOCAL,
    references: tuple[str, ...] = (PSQL,),
    targets: Callable[[Results], Sequence[Target]] = lambda _: (),
    memory: bool = False,
    panel: bool = False,
    profile: str = "",
) -> Case:
    return Case(
        name,
        title,
        partial(_measure, name, work),
        [p for p in PEERS if p.name in references or p.name not in REFERENCES],
        targets=targets,
        group=group,
        memory=memory,
        panel=panel,
        profile=profile,
    )


def _thousand(results: Results) -> Sequence[Target]:
    name = "apply-1000"
    return [
        *results.against(name, PSQL, 1.02, "at most 1.02 of {}, a commit a file"),
        *results.against_fastest(name, 1.0),
    ]


def _ten_ms(results: Results) -> Sequence[Target]:
    name = "apply-100-10ms"
    return [
        *results.against_fastest(name, 0.27),
        *results.against(name, ONE_STRING, 3, "at most 3 times {}"),
    ]


def _nothing(results: Results) -> Sequence[Target]:
    name = "nothing-to-do"
    found = results.against(name, FLOOR, 1.15, "at most 1.15 of the {}")
    for other in _BEHIND:
        found += results.against(name, other, 1.0, "ahead of {}")
    return found


def _copied(results: Results) -> Sequence[Target]:
    ours = max(results.values("copy-100mb", OURS, "peak_mb"), default=0)
    if not ours:
        return []
    found = [Target("copy-100mb", "at most 100 MB of memory", ours, 100, f"{ours:.0f} MB")]
    whole = results.others("insert-100mb")
    peaks = [(results.values("insert-100mb", name, "peak_mb")[0], name) for name in whole]
    if peaks:
        peak, name = min(peaks)
        text = f"a quarter of the best that reads files whole ({name}, with INSERTs)"
        shown = f"{ours / peak:.2f} of {peak:.0f} MB"
        found.append(Target("copy-100mb", text, ours / peak, 0.25, shown))
    return found


_FAR = (PSQL, ONE_STRING)
CASES = [
    case("apply-1", "apply 1 file", Work("apply", 1, 5)),
    case("apply-10", "apply 10 files", Work("apply", 10, 5)),
    case("apply-100", "apply 100 files", Work("apply", 100, 5), memory=True),
    case(
        "apply-1000",
        "apply 1,000 files",
        Work("apply", 1000, 4),
        targets=_thousand,
        memory=True,
        panel=True,
    ),
    case(
        "nothing-to-do",
        "nothing to do, 100 files executed",
        Work("again", 100, 11),
        references=(FLOOR,),
        targets=_nothing,
        memory=True,
        panel=True,
        profile="of the 27 ms above the floor, 13 of the processor are the import of the package's "
        "own rooms, and 3 the 100 files, which are read and hashed; the rest is invoke, which "
        "reads its configuration and the tasks, and two questions. knex, by Node.js, takes "
        "less than the floor: Python with invoke and psycopg.",
    ),
    case("one-more", "one new file on top of 100", Work("more", 100, 5), references=()),
    case(
        "apply-100-10ms",
        "apply 100 files, round trip 10 ms",
        Work("apply", 100, 3, 10),
        group=AFAR,
        references=_FAR,
        targets=_ten_ms,
        panel=True,
        profile="a third of the time is what a run of one file takes, mostly Python that begins; "
        "some 15 round trips are 150 ms; the rest is what the server and the processor here do "
        "for the files. On a processor twice as fast it was 2.77 times psql, a day before.",
    ),
    case(
        "apply-100-30ms",
        "apply 100 files, round trip 30 ms",
        Work("apply", 100, 3, 30),
        group=AFAR,
        references=_FAR,
        targets=lambda results: results.against_fastest("apply-100-30ms", 0.12),
    ),
    case(
        "copy-100mb",
        "one file of COPY … FROM stdin, 100 MB",
        Work("copy", 100, 2),
        group=AFAR,
        targets=_copied,
        memory=True,
    ),
    case(
        "insert-100mb",
        "one file of INSERTs, 100 MB",
        Work("insert", 100, 1),
        group=AFAR,
        memory=True,
    ),
]
