"""A busy table is altered while somebody reads it: how long the application waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from .. import generate
from ..case import AFAR, Case, Program, Sample, Samples, Target
from ..peers import OURS, PEERS, PSQL, REFERENCES, Peer
from ..results import Results
from ..session import Bench
from .files import warm_up

NAME = "stall"
_READER_S = 5.0  # how long the reader holds its lock
_QUERIES = ("SELECT n FROM busy WHERE id = 7", "UPDATE busy SET n = n + 1 WHERE id = 7")
_COLUMNS = (
    "SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attnum > 0"  # 3 then
)


def measure(bench: Bench, present: Sequence[Program]) -> Samples:
    rows: dict[str, Callable[[int], Sample]] = {}
    for peer in present:
        if isinstance(peer, Peer):
            warm_up(bench, peer)
            peer.lay(bench.folder / NAME / peer.name, generate.STALL)
            rows[peer.name] = partial(_once, bench, peer)
    return bench.turns(NAME, 2, rows)


def _once(bench: Bench, peer: Peer, _: int) -> Sample:
    database = bench.cluster.create_database()
    with bench.cluster.connect(database) as conn:
        conn.execute("CREATE TABLE busy (id int PRIMARY KEY, n int)")
        conn.execute("INSERT INTO busy SELECT i, 0 FROM generate_series(1, 10000) i")
    bench.checkpoint()
    url = bench.url(database)
    with (
        bench.cluster.connect(database, autocommit=False) as reader,
        bench.application(database, _QUERIES) as waits,
    ):
        reader.execute("SELECT count(*) FROM busy")
        end = threading.Timer(_READER_S, reader.rollback)
        end.start()
        sample = bench.launch(peer.words(bench.psql, url), bench.folder / NAME / peer.name, url)
        end.join()
    sample.figures["seconds"] = max(waits)
    if not sample.error and (columns := bench.count(database, _COLUMNS)) != 3:
        sample.error = f"made a table of {columns} columns"
    return sample


def targets(results: Results) -> Sequence[Target]:
    ours = max(results.values(NAME, OURS), default=0)
    if not ours:
        return []
    others = [f"{results.middle(NAME, n):.2f} s ({n})" for n in results.others(NAME)[:1]]
    shown = "; the least of the others ".join([f"{ours:.2f} s", *others])
    return [Target(NAME, "under 1 s", ours, 1.0, shown)]


CASES = [
    Case(
        NAME,
        "the application's longest wait during ALTER TABLE",
        measure,
        [peer for peer in PEERS if peer.name == PSQL or peer.name not in REFERENCES],
        targets=targets,
        group=AFAR,
        panel=True,
    )
]
