"""Runs the commands in turn, on new databases of one new server, and times them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.proxy import Proxy
from tests.servers import Cluster, programs, temporary_folder

from . import generate
from .generate import Files
from .peers import FLOOR, ONE_STRING, PSQL, REFERENCES, Peer

READER_S = 5.0  # how long the reader of the stall case holds its lock
_TIMEOUT_S = {"copy": 25, "insert": 60}  # 120 otherwise
_BUDGET_S = 15.0  # a program that has used up so much of a case sits out its other rounds
# It commits to disk; no checkpoint and no vacuum in the middle of somebody's measurement.
_SERVER = {"max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}
_LAUNCH = str(Path(__file__).with_name("launch.py"))
_CHECKS = {
    "copy": generate.COUNT_ROWS,
    "insert": generate.COUNT_ROWS,
    "stall": "SELECT count(*) FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attnum > 0",
}


@dataclass(frozen=True)
class Case:
    """What is measured: `n` files (or megabytes), `rounds` times each."""

    name: str
    title: str
    kind: str  # apply, again, more, copy, insert, stall
    n: int
    rounds: int
    references: tuple[str, ...] = (PSQL,)
    round_trip_ms: int = 0

    def files(self) -> Files:
        if self.kind in ("copy", "insert"):
            return generate.load(self.n, copy=self.kind == "copy")
        return generate.STALL if self.kind == "stall" else generate.files(self.n)


_AFAR = (PSQL, ONE_STRING)
_BEHIND = "the application's longest wait during ALTER TABLE"
CASES = [
    Case("apply-1", "apply 1 file", "apply", 1, 5),
    Case("apply-10", "apply 10 files", "apply", 10, 5),
    Case("apply-100", "apply 100 files", "apply", 100, 5),
    Case("apply-1000", "apply 1,000 files", "apply", 1000, 4),
    Case("nothing-to-do", "nothing to do, 100 files executed", "again", 100, 11, (FLOOR,)),
    Case("one-more", "one new file on top of 100", "more", 100, 5, ()),
    Case("apply-100-10ms", "apply 100 files, round trip 10 ms", "apply", 100, 3, _AFAR, 10),
    Case("apply-100-30ms", "apply 100 files, round trip 30 ms", "apply", 100, 3, _AFAR, 30),
    Case("copy-100mb", "one file of COPY … FROM stdin, 100 MB", "copy", 100, 2),
    Case("insert-100mb", "one file of INSERTs, 100 MB", "insert", 100, 1),
    Case("stall", _BEHIND, "stall", 1, 2),
]
QUICK = [
    Case("apply-10", "apply 10 files", "apply", 10, 2),
    Case("nothing-to-do", "nothing to do, 10 files executed", "again", 10, 2, (FLOOR,)),
]
_WARM_UP = Case("warm-up", "", "apply", 1, 1, REFERENCES)  # the file cache and the bytecode


@dataclass
class Sample:
    seconds: float
    peak_mb: float
    error: str = ""


Samples = dict[str, list[Sample]]


@dataclass
class Bench:
    """One session: a server, a folder for the layouts, and the programs that take part."""

    cluster: Cluster
    folder: Path
    psql: Path
    peers: Sequence[Peer]
    say: Callable[[str], None]
    expected: dict[tuple[str, int], int] = field(default_factory=dict)

    def measure(self, case: Case) -> Samples:
        """Return every program's samples, oldest first; one that fails is not run again."""
        with contextlib.ExitStack() as stack:
            port = self.cluster.port
            if case.round_trip_ms:
                link = Proxy("127.0.0.1", port, latency_s=case.round_trip_ms / 2000)
                port = stack.enter_context(link).port
            peers = [p for p in self.peers if p.name in case.references or p.name not in REFERENCES]
            shared = {p.name: self._prepare(case, p) for p in peers}
            samples: Samples = {p.name: [] for p in peers}
            for turn in range(case.rounds):
                at = turn % len(peers)
                going = [p for p in peers[at:] + peers[:at] if _goes_on(samples[p.name])]
                databases = {p.name: shared[p.name] or self._database(case) for p in going}
                with self.cluster.connect() as conn:
                    conn.execute("CHECKPOINT")
                for peer in going:
                    sample = self._once(case, peer, databases[peer.name], port, turn)
                    samples[peer.name].append(sample)
                    said = sample.error or f"{sample.seconds:.3f} s, {sample.peak_mb:.0f} MB"
                    self.say(f"{case.name} {turn + 1}/{case.rounds}  {peer.name}: {said}")
        return samples

    def _place(self, case: Case, peer: Peer) -> Path:
        return self.folder / f"{case.kind}-{case.n}" / peer.name

    def _prepare(self, case: Case, peer: Peer) -> str:
        """Lay the files out; return the database of all rounds, if it is one, with them run."""
        peer.lay(self._place(case, peer), case.files())
        if case.kind not in ("again", "more"):
            return ""
        database = self._database(case)
        self._run(case, peer, database, self.cluster.port)
        return database

    def _database(self, case: Case) -> str:
        database = self.cluster.create_database()
        if case.kind == "stall":
            with self.cluster.connect(database) as conn:
                conn.execute("CREATE TABLE busy (id int PRIMARY KEY, n int)")
                conn.execute("INSERT INTO busy SELECT i, 0 FROM generate_series(1, 10000) i")
        return database

    def _once(self, case: Case, peer: Peer, database: str, port: int, turn: int) -> Sample:
        wanted = case.n
        if case.kind == "more":
            wanted += turn + 1
            peer.lay(self._place(case, peer), generate.files(wanted))
        behind: AbstractContextManager[list[float]] = contextlib.nullcontext([])
        if case.kind == "stall":
            behind = self._busy(database)
        with behind as waits:
            sample = self._run(case, peer, database, port)
        sample.seconds = max(waits, default=sample.seconds)
        if not sample.error and peer.name != FLOOR:  # a tool that does nothing is not fast
            query = _CHECKS.get(case.kind, generate.COUNT_OBJECTS)
            with self.cluster.connect(database) as conn:
                row = conn.execute(query.encode()).fetchone()
            count = int(row[0]) if row else 0
            expected = self.expected.setdefault((query, wanted), count)
            sample.error = "" if count == expected else f"made {count} of {expected}"
        return sample

    def _run(self, case: Case, peer: Peer, database: str, port: int) -> Sample:
        url = self.cluster.url(database, port=port) + "?sslmode=disable"
        log = self.folder / "output.txt"
        launch = [
            sys.executable,
            "-I",
            "-S",
            _LAUNCH,
            str(log),
            str(_TIMEOUT_S.get(case.kind, 120)),
        ]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
        done = subprocess.run(
            [*launch, *peer.words(self.psql, url)],
            cwd=self._place(case, peer),
            env={**env, "DATABASE_URL": url},
            stdout=subprocess.PIPE,
            check=True,
        )
        told = json.loads(done.stdout)
        sample = Sample(round(told["seconds"], 4), round(told["peak_mb"], 1))
        if told["code"] < 0:
            sample.error = f"killed after {told['seconds']:.0f} s"
        elif told["code"]:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
            sample.error = next((x for x in reversed(lines) if "rror" in x), lines[-1])[:160]
        return sample

    @contextlib.contextmanager
    def _busy(self, database: str) -> Iterator[list[float]]:
        """Have the table read for a while, and an application at work; yield how long it waits."""
        waits, stop = [0.0], threading.Event()

        def application(query: bytes) -> None:
            with self.cluster.connect(database) as conn:
                while not stop.is_set():
                    began = time.perf_counter()
                    conn.execute(query)
                    waits[0] = max(waits[0], round(time.perf_counter() - began, 4))
                    time.sleep(0.002)

        queries = (b"SELECT n FROM busy WHERE id = 7", b"UPDATE busy SET n = n + 1 WHERE id = 7")
        threads = [threading.Thread(target=application, args=(query,)) for query in queries]
        with self.cluster.connect(database, autocommit=False) as reader:
            reader.execute("SELECT count(*) FROM busy")
            end = threading.Timer(READER_S, reader.rollback)
            threads.append(end)
            for thread in threads:
                thread.start()
            try:
                yield waits
            finally:
                end.join()
                stop.set()
                for thread in threads:
                    thread.join()


def _goes_on(samples: Sequence[Sample]) -> bool:
    return not any(s.error for s in samples) and sum(s.seconds for s in samples) < _BUDGET_S


@contextlib.contextmanager
def session(server: str, peers: Sequence[Peer], say: Callable[[str], None]) -> Iterator[Bench]:
    """Yield a bench on a server of its own."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(programs(server), fsync=True, options=_SERVER)
        stack.callback(cluster.remove)
        folder = temporary_folder()
        stack.callback(shutil.rmtree, folder)
        bench = Bench(cluster, folder, programs(server) / "psql", peers, say)
        bench.measure(_WARM_UP)
        yield bench
