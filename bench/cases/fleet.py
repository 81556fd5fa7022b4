"""A thousand databases, or schemas of one, get one new file, and then have nothing to do."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from ..case import Case, Column, Program, Sample, Samples, Target
from ..peers import OURS, PEERS, PSQL, home
from ..results import Results
from ..session import Bench

FLEET, TENTH = "invoke db.fleet", "invoke db.fleet, a tenth"
LOOP, DBMATE, BY_PSQL = f"xargs -P 8 {OURS}", "xargs -P 8 dbmate", "xargs -P 8 psql"
_ROWS = {BY_PSQL: "psql", DBMATE: "dbmate", LOOP: "loop"}  # of tables
_OPTIONS = "-Xq -v ON_ERROR_STOP=1 -1"
_TARGETS, _FEW, _ROUNDS, _TIMEOUT_S = 1000, 40, 2, 600
_FILE = "CREATE TABLE {table} (id bigint PRIMARY KEY, note text NOT NULL DEFAULT '');\n"
_IN_USE = "SELECT sum(numbackends) FROM pg_stat_database"
_MADE = "SELECT count(*) FROM pg_class WHERE relname = '{table}'"

# What a shell runs for each {} of a file: a URL, or with schemas the name of one.
_EACH = {
    "databases": {
        BY_PSQL: "{psql} {options} -f {file} {{}}",
        DBMATE: "{dbmate} --url {{}} --no-dump-schema migrate",
        LOOP: "env DATABASE_URL={{}} {invoke} db.migrate-run",
    },
    "schemas": {
        BY_PSQL: "env PGOPTIONS=-csearch_path={{}} {psql} {options} -f {file} {url}",
        DBMATE: "{dbmate} --url {url}'&search_path='{{}} --no-dump-schema migrate",
        LOOP: "env PGOPTIONS=-csearch_path={{}} MIGRATIONS_TABLE={{}}.migrations "
        "DATABASE_URL={url} {invoke} db.migrate-run",
    },
}


@dataclass
class Fleet:
    """The targets, which all rows share: each has files, a ledger and tables of its own."""

    bench: Bench
    kind: str  # databases, schemas
    names: list[str]
    many: str = ""  # the database of the schemas

    @classmethod
    def made(cls, bench: Bench, kind: str) -> Fleet:
        bench.say(f"making {_TARGETS:,} {kind}")
        many = bench.cluster.create_database() if kind == "schemas" else ""
        names = [f"bench_{number:04}" for number in range(_TARGETS)]
        with bench.cluster.connect(many or "postgres") as conn:
            for name in names:
                conn.execute(sql.SQL(f"CREATE {kind[:-1]} {{}}").format(sql.Identifier(name)))
        fleet = cls(bench, kind, names, many)
        fleet.listed(bench.folder / kind, names)
        return fleet

    def listed(self, path: Path, names: Sequence[str]) -> Path:
        """Write a file that names targets, a line each, as a loop takes them."""
        lines = names if self.many else [self.bench.url(name) for name in names]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def count(self, table: str, names: Sequence[str]) -> int:
        query = _MADE.format(table=table)
        if self.many:
            return self.bench.count(self.many, query)
        return sum(self.bench.count(name, query) for name in names[:: len(names) // 10])

    @contextlib.contextmanager
    def connections(self) -> Iterator[list[int]]:
        """Look again and again how many connections there are; yield the most."""
        most, stop = [0], threading.Event()

        def look() -> None:
            with contextlib.suppress(psycopg.Error), self.bench.cluster.connect() as conn:
                while not stop.wait(0.1):
                    row = conn.execute(_IN_USE).fetchone()
                    most[0] = max(most[0], int(row[0]) - 1 if row else 0)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield most
        finally:
            stop.set()
            thread.join()


def measure(kind: str, bench: Bench, present: Sequence[Program]) -> Samples:
    fleet = Fleet.made(bench, kind)
    dbmate = next((p for p in present if p.name == "dbmate"), None)
    rows: dict[str, Callable[[int], Sample]] = {
        FLEET: partial(_ours, fleet, fleet.names),
        TENTH: partial(_ours, fleet, fleet.names[: _TARGETS // 10]),
        BY_PSQL: partial(_loop, fleet, BY_PSQL, fleet.names, ""),
        LOOP: partial(_loop, fleet, LOOP, fleet.names[:_FEW], ""),
    }
    if dbmate is not None:
        rows[DBMATE] = partial(_loop, fleet, DBMATE, fleet.names, str(home(dbmate) / "bin/dbmate"))
    return bench.turns(f"fleet-{kind}", _ROUNDS, rows)


def _ours(fleet: Fleet, names: Sequence[str], turn: int) -> Sample:
    bench, row = fleet.bench, f"ours_{len(names)}"
    folder, table = bench.folder / fleet.kind[:1] / row, f"{row}_{turn}"
    _lay(folder, OURS, turn, table)
    only = folder / "only.txt"
    only.write_text("".join(f"{name}\n" for name in names))
    which = (
        ["--schemas", "bench_%"] if fleet.many else ["--targets", str(bench.folder / fleet.kind)]
    )
    words = [_invoke(), "db.fleet", *which, "--only", str(only)]
    environ = ["env", f"MIGRATIONS_TABLE={row}"]
    return _timed(fleet, [*environ, *words], folder, (table, names))


def _loop(fleet: Fleet, who: str, names: Sequence[str], dbmate: str, turn: int) -> Sample:
    bench, row = fleet.bench, _ROWS[who]
    folder, table = bench.folder / fleet.kind[:1] / row, f"{row}_{turn}"
    file = _lay(folder, who.removeprefix("xargs -P 8 "), turn, table)
    targets = fleet.listed(folder / "targets", names)
    url = f"'{bench.url(fleet.many)}'" if fleet.many else ""
    each = _EACH[fleet.kind][who].format(
        psql=bench.psql, options=_OPTIONS, file=file, dbmate=dbmate, invoke=_invoke(), url=url
    )
    # A shell for the loop; xargs itself takes the words apart.
    words = ["sh", "-c", f"xargs -a {targets} -P 8 -I '{{}}' {each}"]
    sample = _timed(fleet, words, folder, (table, names))
    sample.figures.pop("peak_mb", None)  # of one of many processes
    if len(names) < _TARGETS:
        for figure in ("seconds", "again_s"):
            if figure in sample.figures:
                sample.figures[figure] = round(sample.figures[figure] * _TARGETS / len(names), 2)
    return sample


def _lay(folder: Path, program: str, turn: int, table: str) -> Path:
    """Add the new file as the program wants it; psql has no ledger, and gets the path."""
    text = _FILE.format(table=table)
    if program == PSQL:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{turn}.sql"
        file.write_text(text.replace("TABLE", "TABLE IF NOT EXISTS"))
        return file
    peer = next(peer for peer in PEERS if peer.name == program)
    peer.lay(
        folder, [(f"add_{n}", _FILE.format(table=table[:-1] + str(n))) for n in range(turn + 1)]
    )
    return folder


def _timed(
    fleet: Fleet, words: Sequence[str], folder: Path, made: tuple[str, Sequence[str]]
) -> Sample:
    """Run it twice: with one new file, and with nothing to do."""
    bench = fleet.bench
    bench.checkpoint()
    url = bench.url(fleet.many or "postgres")
    with fleet.connections() as most:
        sample = bench.launch(words, folder, url, timeout_s=_TIMEOUT_S)
    sample.figures["connections"] = most[0]
    table, names = made
    wanted = len(names) if fleet.many else len(names[:: len(names) // 10])
    if not sample.error and (count := fleet.count(table, names)) != wanted:
        sample.error = f"made {count} of {wanted}"
    if sample.error:
        return sample
    time.sleep(1)  # for the backends of the first one to go
    again = bench.launch(words, folder, url, timeout_s=_TIMEOUT_S)
    sample.error = again.error
    sample.figures["again_s"] = again.figures["seconds"]
    return sample


def _invoke() -> str:
    return str(Path(sys.executable).parent / "invoke")


def _targets(name: str, results: Results) -> Sequence[Target]:
    found = results.at_most(name, FLEET, 15, "one new file in at most 15 s", "seconds")
    found += results.at_most(name, FLEET, 5, "nothing to do in at most 5 s", "again_s")
    ratio = results.ratio(name, FLEET, DBMATE)
    if ratio is not None:
        found.append(Target(name, "at most 0.25 of dbmate's loop", ratio, 0.25))
    memory = results.ratio(name, FLEET, TENTH, "peak_mb")
    if memory is not None:
        found.append(Target(name, "at most 1.15 of the memory for a tenth of it", memory, 1.15))
    return found


_COLUMNS = {
    "seconds": Column("one new file, s", 1),
    "again_s": Column("nothing to do, s", 1),
    "connections": Column("connections", 0, most=True),
    "peak_mb": Column("memory, MB", 0, most=True),
}
_ABOUT = (
    "1,000 {kind} of one server, eight at a time. db.fleet is one process; the others are one a "
    f"target, started by xargs. Of {OURS} {_FEW} were measured, and the seconds are those times "
    f"{_TARGETS // _FEW}. psql has no ledger: with nothing to do it executes a CREATE TABLE IF NOT "
    "EXISTS."
)
_PROFILE = (
    "two thirds of the processors' time are the server's: a connection is a new process, which "
    "reads its catalogs and plans every question for the first time. Of 14 ms of a database with "
    "one new file, 5 are the connection (half of it the password's hash), 4 the questions what "
    "stands there, 4 the file; psql, which asks nothing, takes 10, and dbmate 19. So nothing that "
    "connects to each can be four times faster than dbmate's loop. Where the ledger is still to be "
    "made, a second connection holds the lock by which runs take turns."
)
CASES = [
    Case(
        f"fleet-{kind}",
        f"a fleet of 1,000 {kind}",
        partial(measure, kind),
        [peer for peer in PEERS if peer.name in {"dbmate", PSQL}],
        columns=_COLUMNS,
        targets=partial(_targets, f"fleet-{kind}"),
        about=_ABOUT.format(kind=kind),
        profile=_PROFILE,
    )
    for kind in ("databases", "schemas")
]
